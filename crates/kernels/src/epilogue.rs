//! What follows a convolution, in one pass each way: a scale and a shift for each channel (BatchNorm, or a bias), an activation, and
//! 2x2 maximum pooling.

use crate::activation::{Activation, Function, clear_padding, with_function};
use crate::gemm::PANEL;
use crate::shape::padded;
use crate::simd::{Isa, Kernel, Simd};

/// The shape of an epilogue, on stored maps of a convolution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpilogueShape {
    /// Rows of the stored map.
    pub height: usize,
    /// Columns of the stored map.
    pub width: usize,
    /// Channels, stored [`padded`]. The padding is zero in the stored map, as are its scale, shift and gradient; it is zero in the output,
    /// whatever the activation maps zero to.
    pub channels: usize,
    /// Width of the border around the stored map in which every value is zero: see `ConvShape::border`.
    pub border: usize,
    /// What is applied to `scale * y + shift`.
    pub activation: Activation,
    /// Whether 2x2 windows, stride 2, are reduced to their maximum; an odd last row or column is dropped. It is the maximum of the
    /// activation's values; the activation need not be monotone. The first of equal maxima gets the gradient. A NaN always counts as the
    /// maximum; the last of several gets the gradient, as in PyTorch.
    pub pool: bool,
}

impl EpilogueShape {
    /// Rows and columns with the border.
    #[must_use]
    pub const fn map(&self) -> (usize, usize) {
        (self.height + 2 * self.border, self.width + 2 * self.border)
    }

    /// Rows and columns of the output.
    #[must_use]
    pub const fn output_map(&self) -> (usize, usize) {
        let (height, width) = self.map();
        if self.pool { (height / 2, width / 2) } else { (height, width) }
    }

    /// Channels as they are stored.
    #[must_use]
    pub const fn padded_channels(&self) -> usize {
        padded(self.channels)
    }

    /// Floats of a stored image.
    #[must_use]
    pub const fn input_len(&self) -> usize {
        self.height * self.width * self.padded_channels()
    }

    /// Floats of an image of the output.
    #[must_use]
    pub const fn output_len(&self) -> usize {
        let (height, width) = self.output_map();
        height * width * self.padded_channels()
    }
}

/// `scale * y + shift` for each channel.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// Factor of each padded channel.
    pub scale: &'a [f32],
    /// Summand of each padded channel.
    pub shift: &'a [f32],
}

/// The gradient `a * dz + b * y + c` of each channel, `dz` being the gradient after the scale and shift.
#[derive(Debug, Clone, Copy)]
pub struct GradientAffine<'a> {
    /// Factor of `dz`.
    pub a: &'a [f32],
    /// Factor of `y`.
    pub b: &'a [f32],
    /// Summand.
    pub c: &'a [f32],
}

/// An epilogue for an instruction set.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue {
    isa: Isa,
    shape: EpilogueShape,
}

impl Epilogue {
    /// An epilogue of this shape.
    #[must_use]
    pub fn new(isa: Isa, shape: EpilogueShape) -> Self {
        Self { isa, shape }
    }

    /// The shape.
    #[must_use]
    pub fn shape(&self) -> &EpilogueShape {
        &self.shape
    }

    /// The output of a stored image.
    ///
    /// # Panics
    /// When a slice's length does not match the shape, here and below.
    pub fn apply(&self, affine: Affine<'_>, y: &[f32], output: &mut [f32]) {
        self.check(affine, y, output.len());
        let Self { isa, shape } = *self;
        with_function!(shape.activation, |function| if shape.pool {
            isa.run(Apply::<4, _> { shape, function, affine, y, output });
        } else {
            isa.run(Apply::<1, _> { shape, function, affine, y, output });
        });
        if !shape.activation.keeps_zero() {
            clear_padding(shape.channels, output);
        }
    }

    /// Adds to `sums`, two rows of channels: the sum of `dz`, and of `dz * (y - center)`; `dz` is the gradient of the output propagated
    /// back through the pool (to the first maximum) and the activation.
    ///
    /// # Panics
    /// As [`Epilogue::apply`].
    pub fn reduce(&self, affine: Affine<'_>, center: &[f32], y: &[f32], gradient: &[f32], sums: &mut [f32]) {
        self.check(affine, y, gradient.len());
        assert!(center.len() == affine.scale.len() && sums.len() == 2 * center.len());
        let Self { isa, shape } = *self;
        with_function!(shape.activation, |function| if shape.pool {
            isa.run(Reduce::<4, _> { shape, function, affine, center, y, gradient, sums });
        } else {
            isa.run(Reduce::<1, _> { shape, function, affine, center, y, gradient, sums });
        });
    }

    /// The gradient with respect to the stored image.
    ///
    /// # Panics
    /// As [`Epilogue::apply`].
    pub fn backward(
        &self,
        affine: Affine<'_>,
        back: GradientAffine<'_>,
        y: &[f32],
        gradient: &[f32],
        dy: &mut [f32],
    ) {
        self.check(affine, y, gradient.len());
        let channels = self.shape.padded_channels();
        assert!(dy.len() == y.len() && [back.a, back.b, back.c].iter().all(|x| x.len() == channels));
        let Self { isa, shape } = *self;
        with_function!(shape.activation, |function| if shape.pool {
            isa.run(Back::<4, _> { shape, function, affine, back, y, gradient, dy });
        } else {
            isa.run(Back::<1, _> { shape, function, affine, back, y, gradient, dy });
        });
    }

    fn check(&self, affine: Affine<'_>, y: &[f32], output: usize) {
        let channels = self.shape.padded_channels();
        assert!(affine.scale.len() == channels && affine.shift.len() == channels);
        assert!(y.len() == self.shape.input_len() && output == self.shape.output_len());
    }
}

static BORDER: [f32; PANEL] = [0.0; PANEL];

/// A pixel of a window: a pointer to its channels, and 1; or to zeros shared by all channels, and 0.
type Pixel = (*const f32, usize);

/// The pixels of the window of an output, in row-major order; `WINDOW` is 1 or 4.
#[inline(always)]
fn window<const WINDOW: usize>(
    shape: &EpilogueShape,
    channels: usize,
    y: &[f32],
    row: usize,
    column: usize,
) -> [Pixel; WINDOW] {
    std::array::from_fn(|i| match place::<WINDOW>(shape, channels, row, column, i) {
        Some(at) => (y[at..].as_ptr(), 1),
        None => (BORDER.as_ptr(), 0),
    })
}

/// Offset of a window's pixel; `None` in the border.
#[inline(always)]
fn place<const WINDOW: usize>(
    shape: &EpilogueShape,
    channels: usize,
    row: usize,
    column: usize,
    i: usize,
) -> Option<usize> {
    let (y, x) = if WINDOW == 4 { (2 * row + i / 2, 2 * column + i % 2) } else { (row, column) };
    let inner = |at: usize, len: usize| at.checked_sub(shape.border).filter(|at| *at < len);
    Some((inner(y, shape.height)? * shape.width + inner(x, shape.width)?) * channels)
}

/// The padded channels, as a length unknown to the compiler: if it knows a multiple of 16, it unrolls the portable loops and then uses
/// scalars in them instead of vectors.
#[inline(always)]
fn stored_channels(affine: Affine<'_>) -> usize {
    affine.scale.len()
}

/// The values whose maximum a pool takes.
#[inline(always)]
fn compared<S: Simd, F: Function>(simd: S, function: F, z: S::V) -> S::V {
    if F::AFTER_MAXIMUM { z } else { function.value(simd, z) }
}

struct Apply<'a, const WINDOW: usize, F> {
    shape: EpilogueShape,
    function: F,
    affine: Affine<'a>,
    y: &'a [f32],
    output: &'a mut [f32],
}

impl<const WINDOW: usize, F: Function> Kernel for Apply<'_, WINDOW, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let function = self.function;
        let channels = stored_channels(self.affine);
        let (rows, columns) = self.shape.output_map();
        let (scale, shift) = (self.affine.scale.as_ptr(), self.affine.shift.as_ptr());
        let mut output = self.output.as_mut_ptr();
        for row in 0..rows {
            for column in 0..columns {
                let pixels = window::<WINDOW>(&self.shape, channels, self.y, row, column);
                for channel in (0..channels).step_by(S::WIDTH) {
                    // SAFETY: lengths checked in `Epilogue::apply`, channels a multiple of 16.
                    unsafe {
                        let (scale, shift) = (simd.load(scale.add(channel)), simd.load(shift.add(channel)));
                        let value = |(pixel, step): Pixel| {
                            let z = simd.mul_add(simd.load(pixel.add(step * channel)), scale, shift);
                            compared(simd, function, z)
                        };
                        let mut best = value(pixels[0]);
                        for pixel in &pixels[1..] {
                            let other = value(*pixel);
                            best = simd.if_greater_or_nan(other, best, other, best);
                        }
                        if F::AFTER_MAXIMUM {
                            best = function.value(simd, best);
                        }
                        simd.store(output.add(channel), best);
                    }
                }
                // SAFETY: one pixel of the output further, at most its end.
                output = unsafe { output.add(channels) };
            }
        }
    }
}

struct Reduce<'a, const WINDOW: usize, F> {
    shape: EpilogueShape,
    function: F,
    affine: Affine<'a>,
    center: &'a [f32],
    y: &'a [f32],
    gradient: &'a [f32],
    sums: &'a mut [f32],
}

impl<const WINDOW: usize, F: Function> Kernel for Reduce<'_, WINDOW, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let channels = stored_channels(self.affine);
        let mut channel = 0;
        while channel < channels {
            let vectors = ((channels - channel) / S::WIDTH).min(2);
            // SAFETY: `vectors` vectors of channels from `channel` on; lengths checked in `Epilogue::reduce`.
            unsafe {
                match vectors {
                    2 => self.vectors::<S, 2>(simd, channel),
                    _ => self.vectors::<S, 1>(simd, channel),
                }
            }
            channel += vectors * S::WIDTH;
        }
    }
}

impl<const WINDOW: usize, F: Function> Reduce<'_, WINDOW, F> {
    /// The sums of some vectors of channels, kept in registers: in memory, each pixel would wait for the previous one's sums to be written
    /// and read back.
    ///
    /// # Safety
    /// `N` vectors from `channel` on are inside the padded channels.
    #[inline(always)]
    unsafe fn vectors<S: Simd, const N: usize>(&mut self, simd: S, channel: usize) {
        let function = self.function;
        let channels = stored_channels(self.affine);
        let (rows, columns) = self.shape.output_map();
        // SAFETY: the caller's.
        unsafe {
            let load = |p: *const f32| -> [S::V; N] {
                std::array::from_fn(|v| simd.load(p.add(channel + v * S::WIDTH)))
            };
            let (scale, shift) = (load(self.affine.scale.as_ptr()), load(self.affine.shift.as_ptr()));
            let center = load(self.center.as_ptr());
            let sums = self.sums.as_mut_ptr();
            let (mut first, mut second) = (load(sums), load(sums.add(channels)));
            let mut gradient = self.gradient.as_ptr();
            for row in 0..rows {
                for column in 0..columns {
                    let pixels = window::<WINDOW>(&self.shape, channels, self.y, row, column);
                    for v in 0..N {
                        let channel = channel + v * S::WIDTH;
                        let mut y = simd.load(pixels[0].0.add(pixels[0].1 * channel));
                        let mut best = simd.mul_add(y, scale[v], shift[v]);
                        if WINDOW > 1 {
                            best = compared(simd, function, best);
                        }
                        for (pixel, step) in &pixels[1..] {
                            let other_y = simd.load(pixel.add(step * channel));
                            let other = compared(simd, function, simd.mul_add(other_y, scale[v], shift[v]));
                            y = simd.if_greater_or_nan(other, best, other_y, y);
                            best = simd.if_greater_or_nan(other, best, other, best);
                        }
                        if WINDOW > 1 && !F::AFTER_MAXIMUM {
                            // The best value before the activation.
                            best = simd.mul_add(y, scale[v], shift[v]);
                        }
                        let dz = simd.load(gradient.add(channel));
                        let dz = function.backward(simd, best, dz);
                        first[v] = simd.add(first[v], dz);
                        second[v] = simd.mul_add(dz, simd.sub(y, center[v]), second[v]);
                    }
                    // One pixel of the output further, at most its end.
                    gradient = gradient.add(channels);
                }
            }
            for v in 0..N {
                simd.store(sums.add(channel + v * S::WIDTH), first[v]);
                simd.store(sums.add(channels + channel + v * S::WIDTH), second[v]);
            }
        }
    }
}

struct Back<'a, const WINDOW: usize, F> {
    shape: EpilogueShape,
    function: F,
    affine: Affine<'a>,
    back: GradientAffine<'a>,
    y: &'a [f32],
    gradient: &'a [f32],
    dy: &'a mut [f32],
}

impl<const WINDOW: usize, F: Function> Kernel for Back<'_, WINDOW, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let shape = self.shape;
        let function = self.function;
        let channels = stored_channels(self.affine);
        let (rows, columns) = shape.output_map();
        let (scale, shift) = (self.affine.scale.as_ptr(), self.affine.shift.as_ptr());
        let (a, b, c) = (self.back.a.as_ptr(), self.back.b.as_ptr(), self.back.c.as_ptr());
        let dy = self.dy.as_mut_ptr();
        let mut gradient = self.gradient.as_ptr();
        for row in 0..rows {
            for column in 0..columns {
                let pixels = window::<WINDOW>(&shape, channels, self.y, row, column);
                let targets: [Option<usize>; WINDOW] =
                    std::array::from_fn(|i| place::<WINDOW>(&shape, channels, row, column, i));
                for channel in (0..channels).step_by(S::WIDTH) {
                    // SAFETY: lengths checked in `Epilogue::backward`, channels a multiple of 16.
                    unsafe {
                        let (scale, shift) = (simd.load(scale.add(channel)), simd.load(shift.add(channel)));
                        let (a, b, c) =
                            (simd.load(a.add(channel)), simd.load(b.add(channel)), simd.load(c.add(channel)));
                        let y = pixels.map(|(pixel, step)| simd.load(pixel.add(step * channel)));
                        let values = y.map(|y| simd.mul_add(y, scale, shift));
                        // The position of the maximum, which gets the whole gradient.
                        let (mut z, mut taken) = (values[0], simd.zero());
                        let mut best = if WINDOW > 1 { compared(simd, function, z) } else { z };
                        for i in 1..WINDOW {
                            let other = compared(simd, function, values[i]);
                            taken = simd.if_greater_or_nan(other, best, simd.splat(i as f32), taken);
                            if !F::AFTER_MAXIMUM {
                                z = simd.if_greater_or_nan(other, best, values[i], z);
                            }
                            best = simd.if_greater_or_nan(other, best, other, best);
                        }
                        if F::AFTER_MAXIMUM {
                            z = best;
                        }
                        let all = function.backward(simd, z, simd.load(gradient.add(channel)));
                        for i in 0..WINDOW {
                            let dz = if WINDOW == 1 {
                                all
                            } else {
                                simd.if_equal(taken, simd.splat(i as f32), all, simd.zero())
                            };
                            if let Some(at) = targets[i] {
                                let x = simd.mul_add(a, dz, simd.mul_add(b, y[i], c));
                                simd.store(dy.add(at + channel), x);
                            }
                        }
                    }
                }
                // SAFETY: one pixel of the output further, at most its end.
                gradient = unsafe { gradient.add(channels) };
            }
        }
        if WINDOW == 1 {
            return;
        }
        // Values dropped in an odd last row or column still count in the statistics.
        for row in 0..shape.map().0 {
            for column in 0..shape.map().1 {
                if row < 2 * rows && column < 2 * columns {
                    continue;
                }
                let Some(at) = place::<1>(&shape, channels, row, column, 0) else { continue };
                for channel in (0..channels).step_by(S::WIDTH) {
                    // SAFETY: as above.
                    unsafe {
                        let y = simd.load(self.y.as_ptr().add(at + channel));
                        let x = simd.mul_add(simd.load(b.add(channel)), y, simd.load(c.add(channel)));
                        simd.store(dy.add(at + channel), x);
                    }
                }
            }
        }
    }
}
