//! Arithmetic on whole images, element by element.
//!
//! Images are channels-last with padded channels, so that every slice is a multiple of 16 long. Each of these functions returns zero where
//! all its inputs are zero, which keeps the padding zero.

use crate::gemm::PANEL;
use crate::simd::{Isa, Kernel, Simd};

/// An element of a result from the elements of `N` slices.
pub(crate) trait Formula<const N: usize>: Copy {
    fn value<S: Simd>(self, simd: S, x: [S::V; N]) -> S::V;
}

/// Computes every element of `output` by the formula.
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

/// As [`each`], in place, from the target itself and a slice.
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
/// When the slices differ in length, or the length is not a multiple of 16, here and below.
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

/// The gradient through a ReLU, in place, from the ReLU's output: kept where the output is greater than zero or a NaN, else zero.
///
/// # Panics
/// As [`add_assign`].
pub fn relu_mask(isa: Isa, output: &[f32], gradient: &mut [f32]) {
    each_in_place(isa, Mask, gradient, output);
}
