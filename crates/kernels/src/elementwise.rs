//! Arithmetic on whole images, element by element.
//!
//! Images are channels-last with padded channels, so that every slice is a multiple of 16 long. Each of these functions gives zero
//! where all that it takes is zero, which keeps the padding zero.

use crate::gemm::PANEL;
use crate::simd::{Isa, Kernel, Simd};

/// An element of a result from the elements of `N` slices.
pub(crate) trait Formula<const N: usize>: Copy {
    fn value<S: Simd>(self, simd: S, x: [S::V; N]) -> S::V;
}

/// Every element of `output` by the formula.
pub(crate) fn each<const N: usize>(isa: Isa, formula: impl Formula<N>, x: [&[f32]; N], output: &mut [f32]) {
    assert!(output.len().is_multiple_of(PANEL), "{} floats are no padded image", output.len());
    for x in x {
        assert_eq!(x.len(), output.len());
    }
    isa.run(Each { formula, x, output });
}

struct Each<'a, F, const N: usize> {
    formula: F,
    x: [&'a [f32]; N],
    output: &'a mut [f32],
}

impl<F: Formula<N>, const N: usize> Kernel for Each<'_, F, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let x = self.x.map(<[f32]>::as_ptr);
        let output = self.output.as_mut_ptr();
        for at in (0..self.output.len()).step_by(S::WIDTH) {
            // SAFETY: slices of one length, a multiple of 16, checked in `each`.
            unsafe {
                let x = x.map(|x| simd.load(x.add(at)));
                simd.store(output.add(at), self.formula.value(simd, x));
            }
        }
    }
}

/// As [`each`], of the target itself and a slice.
fn each_in_place(isa: Isa, formula: impl Formula<2>, target: &mut [f32], x: &[f32]) {
    assert!(target.len().is_multiple_of(PANEL), "{} floats are no padded image", target.len());
    assert_eq!(x.len(), target.len());
    isa.run(InPlace { formula, target, x });
}

struct InPlace<'a, F> {
    formula: F,
    target: &'a mut [f32],
    x: &'a [f32],
}

impl<F: Formula<2>> Kernel for InPlace<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for at in (0..self.target.len()).step_by(S::WIDTH) {
            // SAFETY: slices of one length, a multiple of 16, checked in `each_in_place`.
            unsafe {
                let target = self.target.as_mut_ptr().add(at);
                let x = [simd.load(target), simd.load(self.x.as_ptr().add(at))];
                simd.store(target, self.formula.value(simd, x));
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Sum;

impl Formula<2> for Sum {
    #[inline(always)]
    fn value<S: Simd>(self, simd: S, [a, b]: [S::V; 2]) -> S::V {
        simd.add(a, b)
    }
}

#[derive(Clone, Copy)]
struct Product;

impl Formula<2> for Product {
    #[inline(always)]
    fn value<S: Simd>(self, simd: S, [a, b]: [S::V; 2]) -> S::V {
        simd.mul(a, b)
    }
}

#[derive(Clone, Copy)]
struct Scale(f32);

impl Formula<1> for Scale {
    #[inline(always)]
    fn value<S: Simd>(self, simd: S, [x]: [S::V; 1]) -> S::V {
        simd.mul(x, simd.splat(self.0))
    }
}

/// The first where the second is greater than zero or a NaN.
#[derive(Clone, Copy)]
struct Mask;

impl Formula<2> for Mask {
    #[inline(always)]
    fn value<S: Simd>(self, simd: S, [gradient, output]: [S::V; 2]) -> S::V {
        simd.if_greater_or_nan(output, simd.zero(), gradient, simd.zero())
    }
}

/// `target += x`.
///
/// # Panics
/// When the slices differ in length or are no multiple of 16 long, here as below.
pub fn add_assign(isa: Isa, target: &mut [f32], x: &[f32]) {
    each_in_place(isa, Sum, target, x);
}

/// `y = factor * x`.
///
/// # Panics
/// As [`add_assign`].
pub fn scale(isa: Isa, factor: f32, x: &[f32], y: &mut [f32]) {
    each(isa, Scale(factor), [x], y);
}

/// `y = a * b`, two images of one shape.
///
/// # Panics
/// As [`add_assign`].
pub fn multiply(isa: Isa, a: &[f32], b: &[f32], y: &mut [f32]) {
    each(isa, Product, [a, b], y);
}

/// The gradients of [`multiply`]: `da = gradient * b` and `db = gradient * a`.
///
/// # Panics
/// As [`add_assign`].
pub fn multiply_backward(isa: Isa, a: &[f32], b: &[f32], gradient: &[f32], da: &mut [f32], db: &mut [f32]) {
    multiply(isa, gradient, b, da);
    multiply(isa, gradient, a, db);
}

/// The gradient behind a ReLU, in place, from the ReLU's output: kept where the output is greater than zero or a NaN, else zero.
///
/// # Panics
/// As [`add_assign`].
pub fn relu_mask(isa: Isa, output: &[f32], gradient: &mut [f32]) {
    each_in_place(isa, Mask, gradient, output);
}

/// `y = x * gate`, the gate one factor for each padded channel of the image.
///
/// # Panics
/// When the gate is no multiple of 16 long, the images are no whole number of pixels, or slices of images differ in length.
pub fn gate(isa: Isa, x: &[f32], gate: &[f32], y: &mut [f32]) {
    check_gate(x, gate);
    assert_eq!(x.len(), y.len());
    isa.run(Gate { x, gate, y });
}

/// The gradients of [`gate`]: `dx = gradient * gate`, and for each channel `d_gate`, the sum over the pixels of `gradient * x`.
///
/// # Panics
/// As [`gate`].
pub fn gate_backward(
    isa: Isa,
    x: &[f32],
    gate: &[f32],
    gradient: &[f32],
    dx: &mut [f32],
    d_gate: &mut [f32],
) {
    check_gate(x, gate);
    assert!(gradient.len() == x.len() && dx.len() == x.len() && d_gate.len() == gate.len());
    isa.run(GateBackward { x, gate, gradient, dx, d_gate });
}

fn check_gate(x: &[f32], gate: &[f32]) {
    assert!(!gate.is_empty() && gate.len().is_multiple_of(PANEL), "{} channels are not padded", gate.len());
    assert!(x.len().is_multiple_of(gate.len()), "{} floats of {} channels", x.len(), gate.len());
}

struct Gate<'a> {
    x: &'a [f32],
    gate: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let channels = self.gate.len();
        for (x, y) in self.x.chunks_exact(channels).zip(self.y.chunks_exact_mut(channels)) {
            for channel in (0..channels).step_by(S::WIDTH) {
                // SAFETY: `channels` floats in each, a multiple of 16.
                unsafe {
                    let gate = simd.load(self.gate.as_ptr().add(channel));
                    let x = simd.load(x.as_ptr().add(channel));
                    simd.store(y.as_mut_ptr().add(channel), simd.mul(x, gate));
                }
            }
        }
    }
}

struct GateBackward<'a> {
    x: &'a [f32],
    gate: &'a [f32],
    gradient: &'a [f32],
    dx: &'a mut [f32],
    d_gate: &'a mut [f32],
}

impl Kernel for GateBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let channels = self.gate.len();
        self.d_gate.fill(0.0);
        let (gate, d_gate) = (self.gate.as_ptr(), self.d_gate.as_mut_ptr());
        let pixels = self.x.chunks_exact(channels).zip(self.gradient.chunks_exact(channels));
        for ((x, gradient), dx) in pixels.zip(self.dx.chunks_exact_mut(channels)) {
            for channel in (0..channels).step_by(S::WIDTH) {
                // SAFETY: `channels` floats in each, a multiple of 16.
                unsafe {
                    let gradient = simd.load(gradient.as_ptr().add(channel));
                    let dx = dx.as_mut_ptr().add(channel);
                    simd.store(dx, simd.mul(gradient, simd.load(gate.add(channel))));
                    let (x, sum) = (simd.load(x.as_ptr().add(channel)), d_gate.add(channel));
                    simd.store(sum, simd.mul_add(gradient, x, simd.load(sum)));
                }
            }
        }
    }
}
