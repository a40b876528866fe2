use super::span::Span;
use crate::RecipeError;
use crate::error::{MAX_NUMBER, MAX_STEPS};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A straight line from a share of the first learning rate up to the full rate, before the schedule begins (`torch.optim.lr_scheduler.LinearLR`,
/// taken at every step).
///
/// Either `steps` or `epochs` gives its length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["steps"] }, { "required": ["epochs"] }]))]
pub struct Warmup {
    /// Length in batches, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_STEPS))]
    pub steps: Option<u64>,
    /// Length in epochs, above 0; rounded to whole steps, at least one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = MAX_NUMBER))]
    pub epochs: Option<f64>,
    /// The share at the first step, in `(0, 1]`; a third if not given.
    #[serde(default = "third")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub start_factor: f64,
}

fn third() -> f64 {
    1.0 / 3.0
}

impl Warmup {
    /// Its length in batches.
    pub(super) fn steps_of(&self, span: Span) -> u64 {
        match (self.steps, self.epochs) {
            (Some(steps), _) => steps,
            (None, Some(epochs)) => (epochs * span.steps_per_epoch as f64).round().max(1.0) as u64,
            (None, None) => 0,
        }
    }

    /// The share at step `step` of `steps`.
    pub(super) fn factor(&self, step: u64, steps: u64) -> f64 {
        self.start_factor + (1.0 - self.start_factor) * (step as f64 / steps as f64)
    }

    pub(crate) fn check(&self) -> Result<(), RecipeError> {
        match (self.steps, self.epochs) {
            (Some(steps), None) => {
                RecipeError::count("warmup.steps", steps)?;
            }
            (None, Some(epochs)) => RecipeError::positive("warmup.epochs", epochs)?,
            (Some(_), Some(_)) => {
                let text = "warmup has a length in steps and one in epochs; leave one of them out";
                return Err(RecipeError::Combination(text.to_owned()));
            }
            (None, None) => {
                let text = "warmup needs a length; give steps or epochs, such as { epochs = 5 }";
                return Err(RecipeError::Combination(text.to_owned()));
            }
        }
        let factor = self.start_factor;
        let is_good = factor > 0.0 && factor <= 1.0;
        RecipeError::unless_number(is_good, "warmup.start_factor", factor, "a number above 0, at most 1")
    }
}
