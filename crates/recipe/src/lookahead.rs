use crate::{RecipeError, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Slow weights in addition to the trained ones, which return to them every few steps (Zhang, Lucas, Hinton and Ba, *Lookahead Optimizer: k
/// steps forward, 1 step back*, 2019).
///
/// The slow weights and BatchNorm's statistics start at the initial values. After every `every`th step they become `decay * slow + (1 - decay) *
/// trained`, and the trained ones are set to them; after the last step of a training the trained ones are set to the slow ones. In the paper's
/// words `k` is `every`, and `alpha` is `1 - decay`. With a `power` the decay begins at 0 and grows to the one given: `decay * (step / steps) ^
/// power` (Jordan 2024).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lookahead {
    /// Steps from one average to the next, from 1.
    #[schemars(range(min = 1))]
    pub every: u32,
    /// The share of the slow weights that stays, in `[0, 1)`.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub decay: f64,
    /// How the decay grows over the training, from 0 for a constant one.
    #[schemars(range(min = 0, max = Lookahead::MAX_POWER))]
    pub power: f64,
}

impl Default for Lookahead {
    /// The paper's `k` of 5 and `alpha` of 0.5, throughout.
    fn default() -> Self {
        Self { every: 5, decay: 0.5, power: 0.0 }
    }
}

impl Lookahead {
    const MAX_POWER: f64 = 100.0;

    /// The share of the slow weights that stays after a step, counted from 1, if they are averaged after it; 1 if it is the last step and
    /// between two averages.
    #[must_use]
    pub fn decay_after(&self, step: u64, span: Span) -> Option<f64> {
        if step.is_multiple_of(u64::from(self.every.max(1))) {
            return Some(self.decay * (step as f64 / span.steps.max(1) as f64).powf(self.power));
        }
        (step == span.steps).then_some(1.0)
    }

    pub(crate) fn check(&self) -> Result<(), RecipeError> {
        RecipeError::count("lookahead.every", u64::from(self.every))?;
        RecipeError::share("lookahead.decay", self.decay)?;
        let wanted = format!("a number from 0 to {}", Self::MAX_POWER);
        let is_power = (0.0..=Self::MAX_POWER).contains(&self.power);
        RecipeError::unless_number(is_power, "lookahead.power", self.power, &wanted)
    }
}
