//! What an engine is made with.

use crate::error::EngineError;
use pointwise_network::Graph;
use pointwise_recipe::{DeviceName, Precision, Recipe};
use pointwise_weights::State;
use std::path::PathBuf;

/// What an engine needs to know beside the network.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Seed of the initial values and of dropout.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceName,
    /// Of it, an engine reads the optimizer, the parameter groups, label smoothing, clipping, averaging and lookahead: what a step is made of.
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

    /// Refuses a state from which no training by this recipe can be resumed.
    ///
    /// # Errors
    /// [`EngineError::OtherRecipe`] when the buffers are not those of the recipe's optimizer, or averaged weights are missing or too many.
    pub(crate) fn check_state(&self, state: &State) -> Result<(), EngineError> {
        let recipe = &self.recipe;
        let refuse = |reason: &str| Err(EngineError::OtherRecipe(reason.to_owned()));
        if state.average.is_some() && !recipe.averages() {
            return refuse("it has averaged weights, and the recipe has no `ema` and no `lookahead`");
        }
        let Some(optimizer) = &state.optimizer else { return Ok(()) };
        let expected = recipe.optimizer.buffers();
        let found: Vec<&str> = optimizer.buffers.keys().map(String::as_str).collect();
        if found.len() != expected.len() || !expected.iter().all(|name| found.contains(name)) {
            let named = |names: &[&str]| match names {
                [] => "nothing".to_owned(),
                names => names.join(" and "),
            };
            let (found, expected) = (named(&found), named(expected));
            let class = recipe.optimizer.class();
            return Err(EngineError::OtherRecipe(format!(
                "its optimizer kept {found}, and {class} keeps {expected}"
            )));
        }
        if optimizer.step > 0 && state.average.is_none() {
            if recipe.ema.is_some() {
                return refuse("it has no averaged weights, and the recipe has `ema`");
            }
            if recipe.lookahead.is_some() {
                return refuse("it has no slow weights, and the recipe has `lookahead`");
            }
        }
        Ok(())
    }
}
