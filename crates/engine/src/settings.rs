//! The settings of an engine.

use crate::error::EngineError;
use pointwise_network::Graph;
use pointwise_recipe::{DeviceName, Precision, Recipe};
use pointwise_weights::State;
use std::path::PathBuf;

/// What an engine needs to know besides the network.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Seed of the initial values and of dropout.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceName,
    /// Of the recipe, an engine uses only what defines a step: the optimizer, the parameter groups, label smoothing, clipping, averaging
    /// and lookahead.
    pub recipe: Recipe,
    /// How precisely products are computed; the engines `reference` and `cpu` compute in [`Precision::F32`] only.
    pub precision: Precision,
    /// Whether the same seed must give the same bits every time. The engines on the CPU always do that.
    pub deterministic: bool,
    /// A folder for measurements of the machine, created if necessary. Without one, every run measures again. The engine `cuda` stores the
    /// fastest cuDNN algorithms there.
    pub cache: Option<PathBuf>,
}

impl Settings {
    /// Settings for a recipe, with seed 42, on the CPU, in f32.
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

    /// Rejects a recipe that cannot train this network.
    pub(crate) fn check(&self, graph: &Graph) -> Result<(), EngineError> {
        self.recipe.check()?;
        let parameters = graph.parameters();
        self.recipe.check_groups(parameters.iter().map(|own| (own.name.as_str(), own.shape.len())))?;
        Ok(())
    }

    /// Rejects a state from which training with this recipe cannot resume.
    ///
    /// # Errors
    /// [`EngineError::OtherRecipe`] when the buffers are not those of the recipe's optimizer, or averaged weights are missing or
    /// unexpected.
    pub(crate) fn check_state(&self, state: &State) -> Result<(), EngineError> {
        let recipe = &self.recipe;
        let refuse = |reason: &str| Err(EngineError::OtherRecipe(reason.to_owned()));
        if state.average.is_some() && !recipe.averages() {
            return refuse("it has averaged weights, but the recipe has neither `ema` nor `lookahead`");
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
                "its optimizer kept {found}, but {class} keeps {expected}"
            )));
        }
        if optimizer.step > 0 && state.average.is_none() {
            if recipe.ema.is_some() {
                return refuse("it has no averaged weights, but the recipe has `ema`");
            }
            if recipe.lookahead.is_some() {
                return refuse("it has no slow weights, but the recipe has `lookahead`");
            }
        }
        Ok(())
    }
}
