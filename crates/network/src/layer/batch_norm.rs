use super::kind::{LayerKind, LayerParameter, is_true, map, yes};
use crate::initial::Initial;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Batch normalisation over `(N, H, W)` for each channel (`torch.nn.BatchNorm2d`), with running statistics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchNorm2d {
    /// Added to the variance before the square root.
    #[serde(default = "eps", skip_serializing_if = "is_default_eps")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub eps: f64,
    /// Weight of the newest batch in the running statistics, 0 to 1.
    #[serde(default = "momentum", skip_serializing_if = "is_default_momentum")]
    #[schemars(range(min = 0, max = 1))]
    pub momentum: f64,
    /// Whether each channel is scaled by a trained weight.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub weight: bool,
    /// Whether a trained bias is added to each channel.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub bias: bool,
}

fn eps() -> f64 {
    BatchNorm2d::EPS
}

fn momentum() -> f64 {
    BatchNorm2d::MOMENTUM
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_default_eps(value: &f64) -> bool {
    *value == BatchNorm2d::EPS
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_default_momentum(value: &f64) -> bool {
    *value == BatchNorm2d::MOMENTUM
}

impl BatchNorm2d {
    /// PyTorch's default of `eps`.
    pub const EPS: f64 = 1e-5;
    /// PyTorch's default of `momentum`.
    pub const MOMENTUM: f64 = 0.1;
}

impl Default for BatchNorm2d {
    /// PyTorch's.
    fn default() -> Self {
        Self { eps: Self::EPS, momentum: Self::MOMENTUM, weight: true, bias: true }
    }
}

impl LayerKind for BatchNorm2d {
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
        let eps = self.eps as f32;
        if !(eps > 0.0 && eps.is_finite()) {
            return Err(format!("eps is {:?}; give a small number above 0, such as 1e-5", self.eps));
        }
        if !(0.0..=1.0).contains(&self.momentum) {
            return Err(format!("momentum is {:?}; give a number from 0 to 1", self.momentum));
        }
        Ok(map(input)?.to_vec())
    }

    fn describe(&self, input: &[usize]) -> String {
        let channels = input.first().map_or_else(String::new, |channels| format!(" {channels}"));
        let without = match (self.weight, self.bias) {
            (true, true) => "",
            (true, false) => ", no bias",
            (false, true) => ", no weight",
            (false, false) => ", no weight or bias",
        };
        format!("BatchNorm2d{channels}{without}")
    }

    fn parameters(&self, input: &[usize]) -> Vec<LayerParameter> {
        let parameter =
            |name, value| LayerParameter { name, shape: vec![input[0]], initial: Initial::Constant(value) };
        let weight = self.weight.then(|| parameter("weight", 1.0));
        weight.into_iter().chain(self.bias.then(|| parameter("bias", 0.0))).collect()
    }
}
