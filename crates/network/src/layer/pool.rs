use super::kind::{LayerKind, is_true, map, pair_text, windows, yes};
use super::pair::Pair;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maximum over windows (`torch.nn.MaxPool2d`); padding never wins, and what no window covers is dropped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaxPool2d {
    /// Rows and columns of a window.
    #[schemars(schema_with = "Pair::positive")]
    pub kernel_size: Pair,
    /// Distance between neighbouring windows; `kernel_size` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "Pair::positive")]
    pub stride: Option<Pair>,
    /// Rows and columns around the map, at most half a window.
    #[serde(default = "Pair::zero", skip_serializing_if = "Pair::is_zero")]
    pub padding: Pair,
}

/// Mean over windows (`torch.nn.AvgPool2d`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AvgPool2d {
    /// Rows and columns of a window.
    #[schemars(schema_with = "Pair::positive")]
    pub kernel_size: Pair,
    /// Distance between neighbouring windows; `kernel_size` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "Pair::positive")]
    pub stride: Option<Pair>,
    /// Rows and columns of zeros around the map, at most half a window.
    #[serde(default = "Pair::zero", skip_serializing_if = "Pair::is_zero")]
    pub padding: Pair,
    /// Whether zeros of the padding count as values.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub count_include_pad: bool,
}

/// Mean over the whole map of each channel (`torch.nn.AdaptiveAvgPool2d(1)`): `(C, H, W)` to `(C, 1, 1)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdaptiveAvgPool2d {
    /// 1: other sizes are not supported.
    #[serde(skip_serializing_if = "Pair::is_one")]
    #[schemars(extend("enum" = [1, [1, 1]]))]
    pub output_size: Pair,
}

impl MaxPool2d {
    /// Adjacent windows without padding.
    #[must_use]
    pub fn new(kernel_size: impl Into<Pair>) -> Self {
        Self { kernel_size: kernel_size.into(), stride: None, padding: Pair::ZERO }
    }

    /// The distance between neighbouring windows.
    #[must_use]
    pub fn stride(&self) -> Pair {
        self.stride.unwrap_or(self.kernel_size)
    }
}

impl AvgPool2d {
    /// Adjacent windows without padding.
    #[must_use]
    pub fn new(kernel_size: impl Into<Pair>) -> Self {
        Self { kernel_size: kernel_size.into(), stride: None, padding: Pair::ZERO, count_include_pad: true }
    }

    /// The distance between neighbouring windows.
    #[must_use]
    pub fn stride(&self) -> Pair {
        self.stride.unwrap_or(self.kernel_size)
    }
}

impl Default for AdaptiveAvgPool2d {
    fn default() -> Self {
        Self { output_size: Pair::ONE }
    }
}

fn pooled(
    input: &[usize],
    Pair(kernel): Pair,
    Pair(stride): Pair,
    Pair(padding): Pair,
) -> Result<Vec<usize>, String> {
    let [channels, height, width] = map(input)?;
    if padding[0] > kernel[0] / 2 || padding[1] > kernel[1] / 2 {
        return Err("padding is more than half of kernel_size; give less".to_owned());
    }
    Ok(vec![
        channels,
        windows(height, kernel[0], stride[0], padding[0])?,
        windows(width, kernel[1], stride[1], padding[1])?,
    ])
}

fn describe(class: &str, kernel: Pair, stride: Pair, padding: Pair) -> String {
    let Pair([rows, columns]) = kernel;
    let stride = if stride == kernel { String::new() } else { pair_text("s", stride, 0) };
    format!("{class} {rows}x{columns}{stride}{}", pair_text("p", padding, 0))
}

impl LayerKind for MaxPool2d {
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
        pooled(input, self.kernel_size, self.stride(), self.padding)
    }

    fn describe(&self, _: &[usize]) -> String {
        describe("MaxPool2d", self.kernel_size, self.stride(), self.padding)
    }
}

impl LayerKind for AvgPool2d {
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
        pooled(input, self.kernel_size, self.stride(), self.padding)
    }

    fn describe(&self, _: &[usize]) -> String {
        let without = if self.count_include_pad { "" } else { ", without padding" };
        describe("AvgPool2d", self.kernel_size, self.stride(), self.padding) + without
    }
}

impl LayerKind for AdaptiveAvgPool2d {
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
        let [channels, ..] = map(input)?;
        if self.output_size != Pair::ONE {
            return Err("output_size can only be 1; use AvgPool2d for other sizes".to_owned());
        }
        Ok(vec![channels, 1, 1])
    }

    fn describe(&self, _: &[usize]) -> String {
        format!("AdaptiveAvgPool2d{}", pair_text("", self.output_size, 0))
    }
}
