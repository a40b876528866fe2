use super::kind::{LayerKind, LayerParameter, check, is_true, map, pair_text, windows, yes};
use super::pair::Pair;
use crate::initial::Initial;
use crate::limits::MAX_SIZE;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Convolution (`torch.nn.Conv2d`): `(C, H, W)` to `(out_channels, H', W')`, `H' = floor((H + 2 padding - kernel_size) / stride) + 1`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Conv2d {
    /// Channels of the output.
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub out_channels: usize,
    /// Rows and columns of the kernel.
    #[schemars(schema_with = "Pair::positive")]
    pub kernel_size: Pair,
    /// Distance between neighbouring outputs, in pixels of the input.
    #[serde(default = "Pair::one", skip_serializing_if = "Pair::is_one")]
    #[schemars(schema_with = "Pair::positive")]
    pub stride: Pair,
    /// Rows and columns of zeros on each side.
    #[serde(default = "Pair::zero", skip_serializing_if = "Pair::is_zero")]
    pub padding: Pair,
    /// Groups of channels that are convolved separately; as many as channels make a depthwise convolution.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub groups: usize,
    /// Whether a bias is added.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub bias: bool,
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_one(value: &usize) -> bool {
    *value == 1
}

impl Conv2d {
    /// A convolution of stride 1 without padding, in one group, with a bias.
    #[must_use]
    pub fn new(out_channels: usize, kernel_size: impl Into<Pair>) -> Self {
        let kernel_size = kernel_size.into();
        Self { out_channels, kernel_size, stride: Pair::ONE, padding: Pair::ZERO, groups: 1, bias: true }
    }

    /// With this stride.
    #[must_use]
    pub fn stride(self, stride: impl Into<Pair>) -> Self {
        Self { stride: stride.into(), ..self }
    }

    /// With this padding.
    #[must_use]
    pub fn padding(self, padding: impl Into<Pair>) -> Self {
        Self { padding: padding.into(), ..self }
    }

    /// In this many groups.
    #[must_use]
    pub fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// With or without a bias.
    #[must_use]
    pub fn bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    /// Inputs of one output value.
    fn fan_in(&self, channels: usize) -> usize {
        let Pair([rows, columns]) = self.kernel_size;
        channels / self.groups * rows * columns
    }
}

impl LayerKind for Conv2d {
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
        let [channels, height, width] = map(input)?;
        check("out_channels", self.out_channels, 1)?;
        check("groups", self.groups, 1)?;
        let (out, groups) = (self.out_channels, self.groups);
        if channels % groups != 0 || out % groups != 0 {
            return Err(format!(
                "{channels} channels to {out} cannot be divided into {groups} groups; give a divisor of both numbers"
            ));
        }
        let (Pair(kernel), Pair(stride), Pair(padding)) = (self.kernel_size, self.stride, self.padding);
        Ok(vec![
            self.out_channels,
            windows(height, kernel[0], stride[0], padding[0])?,
            windows(width, kernel[1], stride[1], padding[1])?,
        ])
    }

    fn describe(&self, input: &[usize]) -> String {
        let channels = input.first().map_or_else(String::new, |channels| format!("{channels}->"));
        format!(
            "Conv2d {channels}{}{}{}{}{}{}",
            self.out_channels,
            pair_text("k", self.kernel_size, 0),
            pair_text("s", self.stride, 1),
            // Always shown: without padding, kernels may lose the border.
            if self.padding == Pair::ZERO { " p0".to_owned() } else { pair_text("p", self.padding, 0) },
            if self.groups == 1 { String::new() } else { format!(" g{}", self.groups) },
            if self.bias { "" } else { ", no bias" },
        )
    }

    fn parameters(&self, input: &[usize]) -> Vec<LayerParameter> {
        let channels = input[0];
        let Pair([rows, columns]) = self.kernel_size;
        let initial = Initial::fan_in_uniform(self.fan_in(channels));
        let shape = vec![self.out_channels, channels / self.groups, rows, columns];
        let weight = LayerParameter { name: "weight", shape, initial };
        let bias = LayerParameter { name: "bias", shape: vec![self.out_channels], initial };
        [weight].into_iter().chain(self.bias.then_some(bias)).collect()
    }

    fn macs(&self, input: &[usize], output: &[usize]) -> usize {
        output.iter().product::<usize>().saturating_mul(self.fan_in(input[0]))
    }
}
