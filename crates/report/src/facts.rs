//! The facts about networks, as the trainer gives them.

use serde::{Deserialize, Serialize};

/// The facts about a network, as the trainer gives them: an entry of `trainer summary --json`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NetworkFacts {
    /// Its name.
    pub model: String,
    /// Trainable parameters.
    pub parameters: u64,
    /// Multiply-accumulate operations of one forward pass of one image.
    pub macs: u64,
    /// Its layers, in order; empty where only the sums are known.
    #[serde(default)]
    pub layers: Vec<LayerFacts>,
}

/// A layer of a network, for one image.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LayerFacts {
    /// PyTorch's path: `features.0`.
    pub path: String,
    /// What it is: `Conv2d 64->192 k3 p1`.
    pub layer: String,
    /// Shape of its output.
    pub output: Vec<u64>,
    /// Trainable parameters.
    pub parameters: u64,
    /// Multiply-accumulate operations.
    pub macs: u64,
}
