use crate::RecipeError;
use crate::error::MAX_NUMBER;
use crate::schedule::Rate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

/// Parameters with their own learning rate or weight decay, like the parameter groups of `torch.optim`.
///
/// A parameter belongs to the first group whose conditions it meets. `{ max_dims = 1, weight_decay = 0.0 }` exempts biases and norms from weight
/// decay.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [{ "required": ["names"] }, { "required": ["max_dims"] }]))]
pub struct ParameterGroup {
    /// The whole name, such as `layer1.*.weight`; `*` stands for any characters, `?` for one. Every name if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<String>,
    /// Only parameters of at most this many dimensions, from 1: biases and the weights of norms have 1, of linear layers 2, of convolutions
    /// 4. Any number if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_DIMS))]
    pub max_dims: Option<usize>,
    /// Factor of the schedule's learning rate, from 0; 1 if not given.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = MAX_NUMBER))]
    pub lr_factor: f64,
    /// Weight decay, from 0; the optimizer's own if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_NUMBER))]
    pub weight_decay: Option<f64>,
    /// They are frozen once this many epochs are done; 0 if they are not trained at all, never if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_after: Option<u32>,
}

/// Dimensions of a convolution's weight: no parameter has more.
const MAX_DIMS: usize = 4;

fn one() -> f64 {
    1.0
}

/// What the optimizer does with a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Factor of the schedule's learning rate.
    pub lr_factor: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Epochs after which it is frozen.
    pub frozen_after: Option<u32>,
}

impl Group {
    /// Whether its parameters and their optimizer state are frozen at a step, as in PyTorch for parameters without a gradient.
    #[must_use]
    pub fn is_frozen(&self, rate: Rate) -> bool {
        self.frozen_after.is_some_and(|epochs| rate.epoch >= epochs)
    }

    /// The learning rate of a step: 0 for frozen parameters.
    #[must_use]
    pub fn lr(&self, rate: Rate) -> f64 {
        if self.is_frozen(rate) { 0.0 } else { rate.lr * self.lr_factor }
    }
}

impl ParameterGroup {
    /// Whether it matches a parameter with this name and number of dimensions.
    #[must_use]
    pub fn matches(&self, name: &str, dims: usize) -> bool {
        self.names.as_ref().is_none_or(|pattern| WildMatch::new(pattern).matches(name))
            && self.max_dims.is_none_or(|most| dims <= most)
    }

    pub(crate) fn check(&self, number: usize) -> Result<(), RecipeError> {
        let key = |name: &str| format!("{name} of parameter group {number}");
        if self.names.is_none() && self.max_dims.is_none() {
            return Err(RecipeError::Combination(format!(
                "parameter group {number} matches everything; give it names or max_dims, or change the optimizer's own values"
            )));
        }
        if let Some(most) = self.max_dims {
            let wanted = format!("a whole number from 1 to {MAX_DIMS}");
            RecipeError::unless((1..=MAX_DIMS).contains(&most), &key("max_dims"), &most, &wanted)?;
        }
        RecipeError::not_negative(&key("lr_factor"), self.lr_factor)?;
        self.weight_decay.map_or(Ok(()), |decay| RecipeError::not_negative(&key("weight_decay"), decay))
    }
}
