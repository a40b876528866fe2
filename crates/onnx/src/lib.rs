//! Networks with their weights as [ONNX](https://onnx.ai) models, for runtimes such as ONNX Runtime and OpenVINO.
//!
//! A model computes what a network computes when it is used, not trained: dropout is gone, and BatchNorm has the running statistics.
//! The number of images, `batch`, is left open; all other sizes are fixed.
//!
//! | | name | type and shape |
//! |---|---|---|
//! | input | `input` | f32, `(batch, channels, rows, columns)`, normalised |
//! | input, with [`Options::preprocessing`] | `image` | u8, `(batch, rows, columns, channels)`, as a file has it |
//! | output | `logits` | f32, `(batch, classes)` |
//! | output, with [`Options::softmax`] | `probabilities` | f32, `(batch, classes)`, each row with the sum 1 |
//!
//! Weights have PyTorch's names, such as `features.0.weight`, and values those of the layers that make them, such as `features.0`.
//! Every value has its shape written beside it.
//!
//! ```
//! use pointwise_network::Network;
//! use pointwise_onnx::{Options, encode};
//! use pointwise_weights::State;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let network = Network::by_name("lenet")?;
//! // Usually read from a file.
//! let state = State::initial(&network.graph()?, 42);
//! let model = encode(&network, &state, &Options { softmax: true, ..Options::default() })?;
//! # let file = tempfile::NamedTempFile::new()?;
//! # let file = file.path();
//! std::fs::write(file, model)?;
//! # Ok(())
//! # }
//! ```

mod encode;
mod error;
mod fold;
mod layer;
mod model;
mod names;

pub use encode::encode;
pub use error::OnnxError;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The operator sets, by their versions, in which a model can be written: all have the operators that are used, with the same
/// meaning. The last one is that of ONNX 1.23.
pub const OPSETS: RangeInclusive<u32> = 20..=28;

/// What a model has beside network and weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Version of the operator set, one of [`OPSETS`]: runtimes refuse, or warn of, models of a newer one than theirs.
    pub opset: u32,
    /// Whether BatchNorm directly behind a convolution becomes part of its weights.
    pub fold: bool,
    /// Whether the model takes images as bytes, and how it normalises them.
    pub preprocessing: Option<Preprocessing>,
    /// Whether the model ends in a softmax.
    pub softmax: bool,
    /// What the model says about itself, for people and programs: texts by their keys.
    pub metadata: BTreeMap<String, String>,
}

impl Default for Options {
    /// The newest operator set, and nothing else.
    fn default() -> Self {
        Self {
            opset: *OPSETS.end(),
            fold: false,
            preprocessing: None,
            softmax: false,
            metadata: BTreeMap::new(),
        }
    }
}

/// From the bytes of an image to what a network sees: `(byte / 255 - mean) / std`.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessing {
    /// Of each channel, in units of [0, 1].
    pub mean: Vec<f32>,
    /// Of each channel, above 0.
    pub std: Vec<f32>,
}
