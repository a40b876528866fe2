use super::kind::LayerKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// In training, zeroes an element with probability `p` and scales the others by `1 / (1 - p)` (`torch.nn.Dropout`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dropout {
    /// Probability of zero, in `[0, 1)`.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub p: f64,
}

impl Default for Dropout {
    /// PyTorch's: 0.5.
    fn default() -> Self {
        Self { p: 0.5 }
    }
}

impl LayerKind for Dropout {
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
        // In the precision of the computation: what rounds to 1 would leave nothing.
        if (0.0..1.0).contains(&(self.p as f32)) {
            Ok(input.to_vec())
        } else {
            Err(format!("p is {:?}; give a probability below 1, such as 0.5", self.p))
        }
    }

    fn describe(&self, _: &[usize]) -> String {
        format!("Dropout {:?}", self.p)
    }
}
