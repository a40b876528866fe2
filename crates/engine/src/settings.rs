//! What an engine is made with.

use crate::adam::Adam;
use crate::device::DeviceName;
use crate::precision::Precision;

/// What an engine needs to know beside the network.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Seed of the initial values and of dropout.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceName,
    /// The optimizer's constants.
    pub adam: Adam,
    /// How precisely products are computed; the engines `reference` and `cpu` compute in [`Precision::F32`] only.
    pub precision: Precision,
    /// Whether the same seed must give the same bits every time. The engines on the CPU always do that.
    pub deterministic: bool,
}

impl Default for Settings {
    /// The study's: seed 42, on the CPU, in f32.
    fn default() -> Self {
        Self {
            seed: 42,
            device: DeviceName::Cpu,
            adam: Adam::default(),
            precision: Precision::F32,
            deterministic: false,
        }
    }
}
