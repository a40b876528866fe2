//! The interface of every convolution method, and its operands.

use crate::workspace::{Workspace, WorkspaceNeed};
use std::borrow::Cow;
use std::fmt;

/// Writes the image with this index into a slice of `(rows, columns, padded channels)` floats, filling all of it.
///
/// Images are requested one by one, by the thread that needs them, so that whatever computes one (BatchNorm, ReLU and pooling of the
/// preceding layer) runs in that thread's cache and needs no memory of its own.
pub type Source<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// Called for each image of a result once it is complete and still in cache.
pub type Sink<'a> = &'a (dyn Fn(usize, &[f32]) + Sync);

/// Called for each image of a gradient once it is complete and still in cache; may change it by adding other contributions.
pub type GradientSink<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// The weights of a forward pass.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    /// In the method's layout.
    Plain(&'a [f32]),
    /// As computed by [`Convolution::transform`](crate::Convolution::transform), for repeated passes with the same weights.
    Transformed(&'a [f32]),
}

/// Where the gradient with respect to the input goes.
pub struct InputGradient<'a> {
    /// One image after the other, as the input.
    pub values: &'a mut [f32],
    /// Whether it is added to the existing values or replaces them.
    pub add: bool,
    /// Called for each finished image.
    pub finished: GradientSink<'a>,
}

impl fmt::Debug for InputGradient<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputGradient").field("len", &self.values.len()).finish_non_exhaustive()
    }
}

/// What each method implements; [`Convolution`](crate::Convolution) has checked the lengths of all slices.
pub(crate) trait Algorithm: Send + Sync {
    fn weight_len(&self) -> usize;
    /// Index of `(out, in, tap)` in the method's layout; the input counts inside its group.
    fn weight_index(&self, out: usize, input: usize, tap: usize) -> usize;
    /// Rows of a panel: the layout is `[...][out / 16][rows][16]`.
    fn panel_rows(&self) -> usize;
    /// Expands a value per output channel to one per column of the layout's panels.
    fn spread<'a>(&self, outputs: &'a [f32]) -> Cow<'a, [f32]> {
        Cow::Borrowed(outputs)
    }
    fn need(&self, batch: usize) -> WorkspaceNeed;
    /// Floats of the weights as the forward pass reads them; `None` if it reads them unchanged.
    fn transformed_len(&self) -> Option<usize> {
        None
    }
    /// Writes the weights as the forward pass reads them.
    fn transform(&self, weights: &[f32], transformed: &mut [f32]) {
        transformed.copy_from_slice(weights);
    }
    fn forward(
        &self,
        weights: Weights<'_>,
        images: usize,
        source: Source<'_>,
        output: Output<'_>,
        workspace: &mut Workspace,
    );
    fn backward(&self, weights: &[f32], gradient: Backward<'_>, workspace: &mut Workspace);
}

impl<'a> Weights<'a> {
    /// The weights of a method that reads them unchanged.
    pub(crate) fn values(self) -> &'a [f32] {
        match self {
            Self::Plain(weights) | Self::Transformed(weights) => weights,
        }
    }
}

/// Where a forward pass writes.
pub(crate) struct Output<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) finished: Sink<'a>,
}

/// What a backward pass reads and writes.
pub(crate) struct Backward<'a> {
    pub(crate) images: usize,
    pub(crate) input: Source<'a>,
    pub(crate) output_gradient: Source<'a>,
    pub(crate) input_gradient: Option<InputGradient<'a>>,
    pub(crate) weight_gradient: &'a mut [f32],
}
