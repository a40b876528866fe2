//! What an engine is made with.

use crate::error::EngineError;
use pointwise_network::Graph;
use pointwise_recipe::{DeviceName, Precision, Recipe};
use std::path::PathBuf;

/// What an engine needs to know beside the network.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Seed of the initial values and of dropout.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceName,
    /// Of it, an engine reads the optimizer, the parameter groups, label smoothing, clipping and averaging: what a step is made of.
    pub recipe: Recipe,
    /// How precisely products are computed; the engines `reference` and `cpu` compute in [`Precision::F32`] only.
    pub precision: Precision,
    /// Whether the same seed must give the same bits every time. The engines on the CPU always do that.
    pub deterministic: bool,
    /// A folder for what was measured of a machine, to be used the next time; it is made if need be. Without one it is measured again.
    /// The engine `cuda` keeps which algorithm of cuDNN was fastest there.
    pub cache: Option<PathBuf>,
}

impl Settings {
    /// By a recipe, with seed 42, on the CPU, in f32.
    #[must_use]
    pub fn new(recipe: Recipe) -> Self {
        Self {
            seed: 42,
            device: DeviceName::Cpu,
            recipe,
            precision: Precision::F32,
            deterministic: false,
            cache: None,
        }
    }

    /// Refuses a recipe that no step of this network can be taken by.
    pub(crate) fn check(&self, graph: &Graph) -> Result<(), EngineError> {
        self.recipe.check()?;
        let parameters = graph.parameters();
        self.recipe.check_groups(parameters.iter().map(|own| (own.name.as_str(), own.shape.len())))?;
        Ok(())
    }
}
