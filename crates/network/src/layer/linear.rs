use super::kind::{LayerKind, LayerParameter, check, is_true, yes};
use crate::initial::Initial;
use crate::limits::MAX_SIZE;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Fully connected layer (`torch.nn.Linear`): `(F)` to `(out_features)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Length of the output.
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub out_features: usize,
    /// Whether a bias is added.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub bias: bool,
}

impl Linear {
    /// With a bias.
    #[must_use]
    pub fn new(out_features: usize) -> Self {
        Self { out_features, bias: true }
    }
}

impl LayerKind for Linear {
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
        check("out_features", self.out_features, 1)?;
        match input {
            [_] => Ok(vec![self.out_features]),
            _ => Err("it takes a vector; put a Flatten before it".to_owned()),
        }
    }

    fn describe(&self, input: &[usize]) -> String {
        let features = match input {
            [features] => format!("{features}->"),
            _ => String::new(),
        };
        format!("Linear {features}{}{}", self.out_features, if self.bias { "" } else { ", no bias" })
    }

    fn parameters(&self, input: &[usize]) -> Vec<LayerParameter> {
        let initial = Initial::fan_in_uniform(input[0]);
        let weight = LayerParameter { name: "weight", shape: vec![self.out_features, input[0]], initial };
        let bias = LayerParameter { name: "bias", shape: vec![self.out_features], initial };
        [weight].into_iter().chain(self.bias.then_some(bias)).collect()
    }

    fn macs(&self, input: &[usize], output: &[usize]) -> usize {
        input[0].saturating_mul(output[0])
    }
}
