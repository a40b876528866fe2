//! The pools.

use crate::composed::{self, Windows};
use crate::elements::{Elements, elements, native};
use candle_core::{CpuStorage, CustomOp1, Layout, Module, Result, Shape, Tensor, ToUsize2};
use rayon::prelude::*;
use std::ops::Range;

/// Maximum over windows: `(N, C, H, W)` to `(N, C, H', W')` with `H' = (H + 2 padding - kernel) / stride + 1`, rounded down; pixels that no window
/// covers are dropped. Use it in place of [`Tensor::max_pool2d`], whose gradient is wrong.
///
/// As in PyTorch, the gradient goes to the first maximum of a window in row-major order; a NaN counts as the maximum wherever it lies, and of several
/// NaNs the last takes the gradient. Second-order gradients are not supported in f32 on the CPU.
///
/// ```
/// use candle_core::{Device, Module, Var};
/// use pointwise_candle::MaxPool2d;
///
/// # fn main() -> candle_core::Result<()> {
/// let x = Var::new(&[[[[1f32, 2.0], [4.0, 3.0]]]], &Device::Cpu)?;
/// let y = x.apply(&MaxPool2d::new(2))?;
/// let gradients = y.sum_all()?.backward()?;
/// // candle's own pool gives 0.25.
/// assert_eq!(gradients.get(&x).unwrap().flatten_all()?.to_vec1::<f32>()?, [0.0, 0.0, 1.0, 0.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPool2d {
    windows: Windows,
}

/// Mean over windows: `(N, C, H, W)` to `(N, C, H', W')` with `H' = (H + 2 padding - kernel) / stride + 1`, rounded down; pixels that no window
/// covers are dropped. Use it in place of [`Tensor::avg_pool2d`], which has no gradient for overlapping windows.
///
/// Second-order gradients are not supported in f32 on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AvgPool2d {
    windows: Windows,
    count_include_pad: bool,
}

fn side_by_side(kernel: impl ToUsize2) -> Windows {
    let kernel = pair(kernel);
    Windows { kernel, stride: kernel, padding: [0, 0] }
}

fn pair(sides: impl ToUsize2) -> [usize; 2] {
    sides.to_usize2().into()
}

impl MaxPool2d {
    /// Windows with these rows and columns, side by side, without padding.
    #[must_use]
    pub fn new(kernel: impl ToUsize2) -> Self {
        Self { windows: side_by_side(kernel) }
    }

    /// Sets the stride: rows and columns from one window to the next.
    #[must_use]
    pub fn with_stride(mut self, stride: impl ToUsize2) -> Self {
        self.windows.stride = pair(stride);
        self
    }

    /// Sets the padding: how far windows extend over each edge, at most half their side.
    #[must_use]
    pub fn with_padding(mut self, padding: impl ToUsize2) -> Self {
        self.windows.padding = pair(padding);
        self
    }
}

impl AvgPool2d {
    /// Windows with these rows and columns, side by side, without padding.
    #[must_use]
    pub fn new(kernel: impl ToUsize2) -> Self {
        Self { windows: side_by_side(kernel), count_include_pad: true }
    }

    /// Sets the stride: rows and columns from one window to the next.
    #[must_use]
    pub fn with_stride(mut self, stride: impl ToUsize2) -> Self {
        self.windows.stride = pair(stride);
        self
    }

    /// Sets the padding with zeros: how far windows extend over each edge, at most half their side.
    #[must_use]
    pub fn with_padding(mut self, padding: impl ToUsize2) -> Self {
        self.windows.padding = pair(padding);
        self
    }

    /// Sets whether the padding counts among the values of a window, as it does by default.
    #[must_use]
    pub fn with_count_include_pad(mut self, count_include_pad: bool) -> Self {
        self.count_include_pad = count_include_pad;
        self
    }
}

impl Module for MaxPool2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if native([x]) {
            return x
                .contiguous()?
                .apply_op1(PoolOp { windows: self.windows, reduction: Reduction::Maximum });
        }
        composed::max_pool2d(x, &self.windows)
    }
}

impl Module for AvgPool2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let count_include_pad = self.count_include_pad;
        if native([x]) {
            let reduction = Reduction::Mean { count_include_pad };
            return x.contiguous()?.apply_op1(PoolOp { windows: self.windows, reduction });
        }
        composed::avg_pool2d(x, &self.windows, count_include_pad)
    }
}

/// How a pool reduces a window.
#[derive(Debug, Clone, Copy)]
enum Reduction {
    Maximum,
    Mean { count_include_pad: bool },
}

#[derive(Debug, Clone, Copy)]
struct PoolOp {
    windows: Windows,
    reduction: Reduction,
}

/// A pool over planes of one size.
struct Planes {
    op: PoolOp,
    map: [usize; 2],
    output: [usize; 2],
}

impl Planes {
    fn len(&self) -> usize {
        self.map[0] * self.map[1]
    }

    fn output_len(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// The rows or columns of the plane that lie in a window.
    fn inside(&self, axis: usize, window: usize) -> Range<usize> {
        let Windows { kernel, stride, padding } = self.op.windows;
        let start = window * stride[axis];
        let end = start + kernel[axis] - padding[axis];
        start.saturating_sub(padding[axis])..end.min(self.map[axis])
    }

    /// Calls `visit` for each window in row-major order: its number, and its rows and columns.
    fn each(&self, mut visit: impl FnMut(usize, &Range<usize>, &Range<usize>)) {
        for row in 0..self.output[0] {
            let rows = self.inside(0, row);
            for column in 0..self.output[1] {
                visit(row * self.output[1] + column, &rows, &self.inside(1, column));
            }
        }
    }

    /// Whether windows are 2x2 and side by side: the pool of most networks.
    fn is_plain(&self) -> bool {
        self.op.windows == Windows { kernel: [2, 2], stride: [2, 2], padding: [0, 0] }
    }

    /// Calls `visit` for each window with its number and the place of its maximum.
    fn each_maximum(&self, plane: &[f32], mut visit: impl FnMut(usize, usize)) {
        let width = self.map[1];
        if self.is_plain() {
            let columns = self.output[1];
            for (row, rows) in plane.chunks_exact(2 * width).enumerate() {
                let (top, bottom) = rows.split_at(width);
                for (column, (top, bottom)) in top.chunks_exact(2).zip(bottom.chunks_exact(2)).enumerate() {
                    let place =
                        maximum([(0, top[0]), (1, top[1]), (width, bottom[0]), (width + 1, bottom[1])]);
                    visit(row * columns + column, 2 * row * width + 2 * column + place);
                }
            }
            return;
        }
        self.each(|window, rows, columns| {
            let pixels = rows.clone().flat_map(|row| columns.clone().map(move |column| row * width + column));
            visit(window, maximum(pixels.map(|place| (place, plane[place]))));
        });
    }

    /// What the sum over a window is divided by.
    fn count(&self, include_pad: bool, rows: &Range<usize>, columns: &Range<usize>) -> f32 {
        let [height, width] = if include_pad { self.op.windows.kernel } else { [rows.len(), columns.len()] };
        (height * width) as f32
    }

    fn forward(&self, plane: &[f32], y: &mut [f32]) {
        let width = self.map[1];
        match self.op.reduction {
            Reduction::Maximum => self.each_maximum(plane, |window, place| y[window] = plane[place]),
            Reduction::Mean { count_include_pad } => self.each(|window, rows, columns| {
                let row_sum = |row: usize| plane[row * width..][columns.clone()].iter().sum::<f32>();
                let sum: f32 = rows.clone().map(row_sum).sum();
                y[window] = sum / self.count(count_include_pad, rows, columns);
            }),
        }
    }

    /// Adds the gradient to `dx`.
    fn backward(&self, plane: &[f32], dy: &[f32], dx: &mut [f32]) {
        let width = self.map[1];
        match self.op.reduction {
            Reduction::Maximum => self.each_maximum(plane, |window, place| dx[place] += dy[window]),
            Reduction::Mean { count_include_pad } => self.each(|window, rows, columns| {
                let share = dy[window] / self.count(count_include_pad, rows, columns);
                for row in rows.clone() {
                    dx[row * width..][columns.clone()].iter_mut().for_each(|dx| *dx += share);
                }
            }),
        }
    }
}

/// The place of the first maximum, or of the last NaN.
#[inline(always)]
fn maximum(pixels: impl IntoIterator<Item = (usize, f32)>) -> usize {
    let (mut place, mut best) = (0, f32::NEG_INFINITY);
    for (i, (other, value)) in pixels.into_iter().enumerate() {
        if i == 0 || value > best || value.is_nan() {
            (place, best) = (other, value);
        }
    }
    place
}

impl PoolOp {
    fn planes(self, shape: &Shape) -> Result<Planes> {
        let (_, _, height, width) = shape.dims4()?;
        let map = [height, width];
        Ok(Planes { op: self, map, output: self.windows.output(map)? })
    }
}

impl CustomOp1 for PoolOp {
    fn name(&self) -> &'static str {
        match self.reduction {
            Reduction::Maximum => "pointwise-max-pool2d",
            Reduction::Mean { .. } => "pointwise-avg-pool2d",
        }
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, _, _) = layout.shape().dims4()?;
        let planes = self.planes(layout.shape())?;
        let x = elements(storage, layout)?;
        let mut y = vec![0.0; n * c * planes.output_len()];
        y.par_chunks_exact_mut(planes.output_len())
            .zip(x.par_chunks_exact(planes.len()))
            .for_each(|(y, plane)| planes.forward(plane, y));
        Ok((CpuStorage::F32(y), (n, c, planes.output[0], planes.output[1]).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let planes = self.planes(x.shape())?;
        let gradient = gradient.contiguous()?;
        let (values, dy) = (Elements::of(x)?, Elements::of(&gradient)?);
        let mut dx = vec![0.0; values.len()];
        dx.par_chunks_exact_mut(planes.len())
            .zip(values.par_chunks_exact(planes.len()))
            .zip(dy.par_chunks_exact(planes.output_len()))
            .for_each(|((dx, plane), dy)| planes.backward(plane, dy, dx));
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
