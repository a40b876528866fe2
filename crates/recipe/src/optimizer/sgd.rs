use crate::error::MAX_NUMBER;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Gradient descent with momentum, Nesterov's or not, and the L2 penalty added to the gradient (`torch.optim.SGD`).
///
/// The momentum buffer is `momentum * buffer + gradient`; a step goes along the buffer, with `nesterov` along
/// `gradient + momentum * buffer`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend(
    "if" = { "properties": { "nesterov": { "const": true } }, "required": ["nesterov"] },
    "then" = { "properties": { "momentum": { "exclusiveMinimum": 0 } }, "required": ["momentum"] },
))]
pub struct Sgd {
    /// Learning rate, above 0.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = MAX_NUMBER))]
    pub lr: f64,
    /// Decay of the momentum buffer, in `[0, 1)`.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub momentum: f64,
    /// Factor of the L2 penalty's gradient, from 0.
    #[schemars(range(min = 0, max = MAX_NUMBER))]
    pub weight_decay: f64,
    /// Whether a step looks ahead; needs a momentum.
    pub nesterov: bool,
}

impl Default for Sgd {
    /// PyTorch's: lr 0.001, nothing else.
    fn default() -> Self {
        Self { lr: 1e-3, momentum: 0.0, weight_decay: 0.0, nesterov: false }
    }
}
