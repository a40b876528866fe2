use super::kind::{LayerKind, check, map, pair_text};
use super::pair::Pair;
use crate::limits::MAX_SIZE;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Multiplies by a constant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// The constant.
    pub factor: f64,
}

/// Every `stride`-th pixel, from the first: `x[:, :, ::stride, ::stride]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subsample {
    /// Distance between the pixels that are kept.
    #[schemars(schema_with = "Pair::positive")]
    pub stride: Pair,
}

/// Channels of zeros before the others and after them. After [`Subsample`] it is the parameter-free shortcut, option A, of He et al., *Deep
/// residual learning for image recognition* (2015).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PadChannels {
    /// Channels of zeros before the others.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(max = MAX_SIZE))]
    pub before: usize,
    /// Channels of zeros after the others.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(max = MAX_SIZE))]
    pub after: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_zero(value: &usize) -> bool {
    *value == 0
}

impl LayerKind for Scale {
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
        if (self.factor as f32).is_finite() {
            Ok(input.to_vec())
        } else {
            Err(format!("factor is {:?}; give a finite number", self.factor))
        }
    }

    fn describe(&self, _: &[usize]) -> String {
        format!("Scale {:?}", self.factor)
    }
}

impl LayerKind for Subsample {
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
        let [channels, height, width] = map(input)?;
        let Pair([rows, columns]) = self.stride;
        check("stride", rows, 1)?;
        check("stride", columns, 1)?;
        Ok(vec![channels, height.div_ceil(rows), width.div_ceil(columns)])
    }

    fn describe(&self, _: &[usize]) -> String {
        format!("Subsample{}", pair_text("s", self.stride, 0))
    }
}

impl LayerKind for PadChannels {
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
        let [channels, height, width] = map(input)?;
        check("before", self.before, 0)?;
        check("after", self.after, 0)?;
        Ok(vec![channels + self.before + self.after, height, width])
    }

    fn describe(&self, _: &[usize]) -> String {
        format!("PadChannels {}+{}", self.before, self.after)
    }
}
