//! Maximum and average pools with any window, on single channels-last images.
//!
//! An [`Epilogue`](crate::Epilogue) includes the 2x2 maximum pool after a convolution; these are standalone.

use crate::gemm::PANEL;
use crate::simd::{Isa, Kernel, Simd};
use std::ops::Range;

/// The shape of a pool. Pairs are of rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolShape {
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Padded channels.
    pub channels: usize,
    /// Sides of a window.
    pub kernel: [usize; 2],
    /// Pixels from one window to the next.
    pub stride: [usize; 2],
    /// Padding at each edge; at most half a window's side, so that each window has a pixel.
    pub padding: [usize; 2],
}

impl PoolShape {
    /// Rows and columns of the output: `(side + 2 padding - kernel) / stride + 1`, rounded down.
    ///
    /// # Panics
    /// When a stride is zero, or the window is larger than the input with its padding.
    #[must_use]
    pub const fn output_map(&self) -> (usize, usize) {
        (
            (self.height + 2 * self.padding[0] - self.kernel[0]) / self.stride[0] + 1,
            (self.width + 2 * self.padding[1] - self.kernel[1]) / self.stride[1] + 1,
        )
    }

    /// Floats of an image of the input.
    #[must_use]
    pub const fn input_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Floats of an image of the output.
    ///
    /// # Panics
    /// As [`PoolShape::output_map`].
    #[must_use]
    pub const fn output_len(&self) -> usize {
        let (height, width) = self.output_map();
        height * width * self.channels
    }

    fn check(&self, input: usize, output: usize) {
        assert!(self.channels.is_multiple_of(PANEL), "{} channels are not padded", self.channels);
        for (axis, side) in [self.height, self.width].into_iter().enumerate() {
            let (kernel, padding) = (self.kernel[axis], self.padding[axis]);
            assert!(side > 0 && kernel > 0 && self.stride[axis] > 0, "{self:?}");
            assert!(2 * padding <= kernel && kernel <= side + 2 * padding, "{self:?}");
        }
        assert!(input == self.input_len() && output == self.output_len(), "{self:?}: {input}, {output}");
    }

    /// The rows and columns of the input that the window of an output covers.
    #[inline(always)]
    fn window(&self, row: usize, column: usize) -> [Range<usize>; 2] {
        let inside = |at: usize, axis: usize, side: usize| {
            let start = at * self.stride[axis];
            let end = start + self.kernel[axis] - self.padding[axis];
            start.saturating_sub(self.padding[axis])..end.min(side)
        };
        [inside(row, 0, self.height), inside(column, 1, self.width)]
    }
}

/// The maximum of each window; padding never counts. A NaN always counts as the maximum, as in PyTorch.
///
/// # Panics
/// When the channels are not a multiple of 16, a window can lie outside the input, or a slice's length does not match the shape, here and
/// below.
pub fn max_pool(isa: Isa, shape: PoolShape, x: &[f32], y: &mut [f32]) {
    shape.check(x.len(), y.len());
    isa.run(Maximum { shape, x, y });
}

/// The gradient of [`max_pool`]: that of each output goes to the first maximum of its window, in row-major order; where there are
/// NaNs, to the last of them. Where windows overlap, gradients are added in row-major order of the outputs.
///
/// # Panics
/// As [`max_pool`].
pub fn max_pool_backward(isa: Isa, shape: PoolShape, x: &[f32], gradient: &[f32], dx: &mut [f32]) {
    shape.check(x.len(), gradient.len());
    assert_eq!(dx.len(), x.len());
    isa.run(MaximumBackward { shape, x, gradient, dx });
}

/// The mean of each window: over the pixels that it covers, or with `count_include_pad` over the whole window with its zero padding.
///
/// # Panics
/// As [`max_pool`].
pub fn avg_pool(isa: Isa, shape: PoolShape, count_include_pad: bool, x: &[f32], y: &mut [f32]) {
    shape.check(x.len(), y.len());
    isa.run(Mean { shape, count_include_pad, x, y });
}

/// The gradient of [`avg_pool`]. Where windows overlap, gradients are added in row-major order of the outputs.
///
/// # Panics
/// As [`max_pool`].
pub fn avg_pool_backward(
    isa: Isa,
    shape: PoolShape,
    count_include_pad: bool,
    gradient: &[f32],
    dx: &mut [f32],
) {
    shape.check(dx.len(), gradient.len());
    isa.run(MeanBackward { shape, count_include_pad, gradient, dx });
}

/// Calls `visit` with the offset of each pixel of a window, in row-major order.
#[inline(always)]
fn for_each_pixel(shape: &PoolShape, [rows, columns]: &[Range<usize>; 2], mut visit: impl FnMut(usize)) {
    for row in rows.clone() {
        for column in columns.clone() {
            visit((row * shape.width + column) * shape.channels);
        }
    }
}

/// As [`for_each_pixel`], with a loop that the compiler unrolls for the windows of most networks: faster for comparisons, not for sums.
#[inline(always)]
fn for_each_pixel_unrolled(shape: &PoolShape, window: &[Range<usize>; 2], visit: impl FnMut(usize)) {
    match (window[0].len(), window[1].len()) {
        (2, 2) => for_each_pixel_of_square::<2>(shape, window, visit),
        (3, 3) => for_each_pixel_of_square::<3>(shape, window, visit),
        _ => for_each_pixel(shape, window, visit),
    }
}

#[inline(always)]
fn for_each_pixel_of_square<const SIDE: usize>(
    shape: &PoolShape,
    [rows, columns]: &[Range<usize>; 2],
    mut visit: impl FnMut(usize),
) {
    for i in 0..SIDE {
        for j in 0..SIDE {
            visit(((rows.start + i) * shape.width + columns.start + j) * shape.channels);
        }
    }
}

/// The divisor of the sum over a window.
#[inline(always)]
fn divisor(shape: &PoolShape, [rows, columns]: &[Range<usize>; 2], count_include_pad: bool) -> f32 {
    let [height, width] = shape.kernel;
    if count_include_pad { (height * width) as f32 } else { (rows.len() * columns.len()) as f32 }
}

struct Maximum<'a> {
    shape: PoolShape,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Maximum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let shape = self.shape;
        let (rows, columns) = shape.output_map();
        let x = self.x.as_ptr();
        let mut y = self.y.as_mut_ptr();
        for row in 0..rows {
            for column in 0..columns {
                let window = shape.window(row, column);
                let first = (window[0].start * shape.width + window[1].start) * shape.channels;
                for channel in (0..shape.channels).step_by(S::WIDTH) {
                    // SAFETY: lengths and windows checked in `PoolShape::check`, channels a multiple of 16.
                    unsafe {
                        let mut best = simd.load(x.add(first + channel));
                        for_each_pixel_unrolled(&shape, &window, |at| {
                            let other = simd.load(x.add(at + channel));
                            best = simd.if_greater_or_nan(other, best, other, best);
                        });
                        simd.store(y.add(channel), best);
                    }
                }
                // SAFETY: one pixel of the output further, at most its end.
                y = unsafe { y.add(shape.channels) };
            }
        }
    }
}

struct MaximumBackward<'a> {
    shape: PoolShape,
    x: &'a [f32],
    gradient: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for MaximumBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let shape = self.shape;
        let (rows, columns) = shape.output_map();
        self.dx.fill(0.0);
        let (x, dx) = (self.x.as_ptr(), self.dx.as_mut_ptr());
        let mut gradient = self.gradient.as_ptr();
        for row in 0..rows {
            for column in 0..columns {
                let window = shape.window(row, column);
                let first = (window[0].start * shape.width + window[1].start) * shape.channels;
                for channel in (0..shape.channels).step_by(S::WIDTH) {
                    // SAFETY: lengths and windows checked in `PoolShape::check`, channels a multiple of 16.
                    unsafe {
                        let mut best = simd.load(x.add(first + channel));
                        // The position of the maximum in its window.
                        let (mut taken, mut place) = (simd.zero(), 0.0);
                        for_each_pixel_unrolled(&shape, &window, |at| {
                            let other = simd.load(x.add(at + channel));
                            taken = simd.if_greater_or_nan(other, best, simd.splat(place), taken);
                            best = simd.if_greater_or_nan(other, best, other, best);
                            place += 1.0;
                        });
                        let gradient = simd.load(gradient.add(channel));
                        place = 0.0;
                        for_each_pixel_unrolled(&shape, &window, |at| {
                            let share = simd.if_equal(taken, simd.splat(place), gradient, simd.zero());
                            let dx = dx.add(at + channel);
                            simd.store(dx, simd.add(simd.load(dx), share));
                            place += 1.0;
                        });
                    }
                }
                // SAFETY: one pixel of the output further, at most its end.
                gradient = unsafe { gradient.add(shape.channels) };
            }
        }
    }
}

struct Mean<'a> {
    shape: PoolShape,
    count_include_pad: bool,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Mean<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let shape = self.shape;
        let (rows, columns) = shape.output_map();
        let x = self.x.as_ptr();
        let mut y = self.y.as_mut_ptr();
        for row in 0..rows {
            for column in 0..columns {
                let window = shape.window(row, column);
                let divisor = simd.splat(divisor(&shape, &window, self.count_include_pad));
                for channel in (0..shape.channels).step_by(S::WIDTH) {
                    // SAFETY: lengths and windows checked in `PoolShape::check`, channels a multiple of 16.
                    unsafe {
                        let mut sum = simd.zero();
                        for_each_pixel(&shape, &window, |at| {
                            sum = simd.add(sum, simd.load(x.add(at + channel)));
                        });
                        simd.store(y.add(channel), simd.div(sum, divisor));
                    }
                }
                // SAFETY: one pixel of the output further, at most its end.
                y = unsafe { y.add(shape.channels) };
            }
        }
    }
}

struct MeanBackward<'a> {
    shape: PoolShape,
    count_include_pad: bool,
    gradient: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for MeanBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let shape = self.shape;
        let (rows, columns) = shape.output_map();
        self.dx.fill(0.0);
        let dx = self.dx.as_mut_ptr();
        let mut gradient = self.gradient.as_ptr();
        for row in 0..rows {
            for column in 0..columns {
                let window = shape.window(row, column);
                let divisor = simd.splat(divisor(&shape, &window, self.count_include_pad));
                for channel in (0..shape.channels).step_by(S::WIDTH) {
                    // SAFETY: lengths and windows checked in `PoolShape::check`, channels a multiple of 16.
                    unsafe {
                        let share = simd.div(simd.load(gradient.add(channel)), divisor);
                        for_each_pixel(&shape, &window, |at| {
                            let dx = dx.add(at + channel);
                            simd.store(dx, simd.add(simd.load(dx), share));
                        });
                    }
                }
                // SAFETY: one pixel of the output further, at most its end.
                gradient = unsafe { gradient.add(shape.channels) };
            }
        }
    }
}
