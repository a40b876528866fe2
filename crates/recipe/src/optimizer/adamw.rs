use crate::error::MAX_NUMBER;
use crate::pair::pair;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Adam with weight decay decoupled from the moments (Loshchilov and Hutter 2019; `torch.optim.AdamW`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW {
    /// Learning rate, above 0.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = MAX_NUMBER))]
    pub lr: f64,
    /// Decays of the first and of the second moment, each in `[0, 1)`.
    #[serde(deserialize_with = "pair")]
    #[schemars(extend("items" = { "type": "number", "minimum": 0, "exclusiveMaximum": 1 }))]
    pub betas: [f64; 2],
    /// Added to the root of the second moment, from 0.
    #[schemars(range(min = 0, max = MAX_NUMBER))]
    pub eps: f64,
    /// Weights are multiplied by `1 - lr * weight_decay` before each step; from 0.
    #[schemars(range(min = 0, max = MAX_NUMBER))]
    pub weight_decay: f64,
}

impl Default for AdamW {
    /// PyTorch's: lr 0.001, betas (0.9, 0.999), eps 1e-8, weight decay 0.01.
    fn default() -> Self {
        Self { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 1e-2 }
    }
}
