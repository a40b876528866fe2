use super::kind::LayerKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Flattens to one dimension in the order `(C, H, W)` (`torch.nn.Flatten`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flatten {}

impl LayerKind for Flatten {
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
        Ok(vec![input.iter().product()])
    }

    fn describe(&self, _: &[usize]) -> String {
        "Flatten".to_owned()
    }
}
