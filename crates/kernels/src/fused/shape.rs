//! The shape of a fused convolution, and the values that it adds to its results.

use crate::activation::Activation;
use crate::gemm::{Clamp, PAIR};
use crate::shape::{ConvShape, padded};
use std::ops::Range;

/// A convolution and what follows it: a bias for each channel, an activation, 2x2 maximum pooling with stride 2, which drops an odd last
/// row or column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FusedShape {
    /// The convolution. It has no unstored border of its own ([`ConvShape::border`]).
    pub convolution: ConvShape,
    /// Width of the border around the convolution's map in which values are known beforehand: [`FusedParameters::rings`].
    pub border: usize,
    /// Applied to the biased values and to the border's.
    pub activation: Activation,
    /// Whether it is followed by the pool.
    pub pool: bool,
}

impl FusedShape {
    /// Rows and columns of the output.
    #[must_use]
    pub const fn output_map(&self) -> (usize, usize) {
        let (rows, columns) = self.convolution.stored_map();
        let (rows, columns) = (rows + 2 * self.border, columns + 2 * self.border);
        if self.pool { (rows / 2, columns / 2) } else { (rows, columns) }
    }

    /// Floats of an image of the output: `(rows, columns, padded(channels))`.
    #[must_use]
    pub const fn output_len(&self) -> usize {
        let (rows, columns) = self.output_map();
        rows * columns * padded(self.convolution.out_channels)
    }

    /// Whether a result can be stored in its final place as soon as it is computed, and so can have an addend.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        let ConvShape { groups, in_channels, out_channels, .. } = self.convolution;
        let is_whole = groups == 1 || (groups == in_channels && groups == out_channels);
        is_whole && self.border == 0 && !self.pool && bounds(self.activation).is_some()
    }

    /// The rows of the convolution's map under these rows of the output.
    pub(super) fn stored_rows(&self, rows: &Range<usize>) -> Range<usize> {
        let scale = if self.pool { 2 } else { 1 };
        let (stored, _) = self.convolution.stored_map();
        let inner = |row: usize| (scale * row).saturating_sub(self.border).min(stored);
        inner(rows.start)..inner(rows.end)
    }
}

/// The bounds of an activation that only clamps values.
pub(super) fn bounds(activation: Activation) -> Option<(f32, f32)> {
    match activation {
        Activation::Identity => Some((f32::NEG_INFINITY, f32::INFINITY)),
        Activation::Relu => Some((0.0, f32::INFINITY)),
        Activation::Relu6 => Some((0.0, 6.0)),
        _ => None,
    }
}

/// The trained values of a [`FusedConvolution`](crate::FusedConvolution), with whatever was folded into them.
#[derive(Debug, Clone, Copy)]
pub struct FusedParameters<'a> {
    /// In PyTorch's layout, `(out, in / groups, rows, columns)`.
    pub weight: &'a [f32],
    /// A value for each output channel.
    pub bias: &'a [f32],
    /// For each ring of the border, from the outermost one, a value for each output channel: the input of the activation there.
    pub rings: &'a [Vec<f32>],
}

/// What is added to results, padded to whole pairs of panels.
pub(super) struct Constants {
    pub(super) bias: Vec<f32>,
    pub(super) rings: Vec<Vec<f32>>,
    pub(super) zeros: Vec<f32>,
}

impl Constants {
    pub(super) fn new(parameters: FusedParameters<'_>) -> Self {
        let extended = |values: &[f32]| {
            let mut values = values.to_vec();
            values.resize(values.len().next_multiple_of(PAIR), 0.0);
            values
        };
        let bias = extended(parameters.bias);
        let zeros = vec![0.0; bias.len()];
        Self { rings: parameters.rings.iter().map(|ring| extended(ring)).collect(), zeros, bias }
    }

    /// The finish of results from a channel on, at a place of the output.
    pub(super) fn clamp(
        &self,
        activation: Activation,
        channel: usize,
        addend: Option<&[f32]>,
        at: usize,
    ) -> Clamp {
        let (low, high) = bounds(activation).unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        Clamp {
            bias: self.bias[channel..].as_ptr(),
            addend: addend.map_or(std::ptr::null(), |addend| addend[at..].as_ptr()),
            low,
            high,
        }
    }
}
