//! Activations: scalar functions, with their gradients as PyTorch defines them.
//!
//! A NaN gives a NaN. The smooth ones are accurate to a few units in the last place of their own value, their gradients to a few units
//! of the largest summand; AVX2 and AVX-512 give the same bits.

use crate::elementwise::{Formula, each};
use crate::shape::padded;
use crate::simd::{Isa, Simd};
use crate::special::{logistic, normal, tanh};
use std::f32::consts::{FRAC_2_SQRT_PI, SQRT_2};

/// An element-wise function, named like PyTorch's modules.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x`.
    Identity,
    /// `max(x, 0)`. The gradient at 0 is 0; it passes at a NaN.
    Relu,
    /// `min(max(x, 0), 6)`. The gradient at 0 and at 6 is 0; it passes at a NaN.
    Relu6,
    /// `x` if it is greater than 0, else `negative_slope * x`, which also gives the gradient at 0 and at a NaN.
    LeakyRelu {
        /// A finite factor; PyTorch's default is 0.01.
        negative_slope: f32,
    },
    /// `x (1 + erf(x / sqrt(2))) / 2`: PyTorch's `GELU(approximate='none')`. A NaN at minus infinity, as in PyTorch.
    Gelu,
    /// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`: PyTorch's `GELU(approximate='tanh')`. A NaN at minus infinity, as in PyTorch.
    /// Below -3 the exponential amplifies the rounding of its argument: a relative error of 2e-6 at first, of 2e-5 where the value
    /// vanishes.
    GeluTanh,
    /// `x / (1 + exp(-x))`. A NaN at minus infinity, as in PyTorch.
    Silu,
    /// `1 / (1 + exp(-x))`. It maps zero to 1/2, so padded channels have to be kept zero: see [`Activation::keeps_zero`].
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
}

impl Activation {
    /// Whether zero stays zero, so that padded channels stay zero. Where it does not, [`forward`] and
    /// [`Epilogue::apply`](crate::Epilogue::apply) write zeros there.
    #[must_use]
    pub const fn keeps_zero(self) -> bool {
        !matches!(self, Self::Sigmoid)
    }
}

/// `y = activation(x)` on the first `channels` channels of every pixel, zero on the padded ones.
///
/// # Panics
/// When the slices differ in length, or are not a whole number of pixels of [`padded`] channels, here and below.
pub fn forward(isa: Isa, activation: Activation, channels: usize, x: &[f32], y: &mut [f32]) {
    check(channels, x);
    with_function!(activation, |function| each(isa, Forward(function), [x], y));
    if !activation.keeps_zero() {
        clear_padding(channels, y);
    }
}

/// `dx = gradient * activation'(x)`. On padded channels `gradient` is zero, and so is `dx`.
///
/// # Panics
/// As [`forward`].
pub fn backward(
    isa: Isa,
    activation: Activation,
    channels: usize,
    x: &[f32],
    gradient: &[f32],
    dx: &mut [f32],
) {
    check(channels, x);
    with_function!(activation, |function| each(isa, Backward(function), [x, gradient], dx));
}

fn check(channels: usize, x: &[f32]) {
    assert!(
        channels > 0 && x.len().is_multiple_of(padded(channels)),
        "{} floats of {channels} channels",
        x.len()
    );
}

/// Zeros beyond the channels of every pixel.
pub(crate) fn clear_padding(channels: usize, image: &mut [f32]) {
    if channels < padded(channels) {
        for pixel in image.chunks_exact_mut(padded(channels)) {
            pixel[channels..].fill(0.0);
        }
    }
}

#[derive(Clone, Copy)]
struct Forward<F>(F);

impl<F: Function> Formula<1> for Forward<F> {
    #[inline(always)]
    fn value<S: Simd>(self, simd: S, [x]: [S::V; 1]) -> S::V {
        self.0.value(simd, x)
    }
}

#[derive(Clone, Copy)]
struct Backward<F>(F);

impl<F: Function> Formula<2> for Backward<F> {
    #[inline(always)]
    fn value<S: Simd>(self, simd: S, [x, gradient]: [S::V; 2]) -> S::V {
        self.0.backward(simd, x, gradient)
    }
}

/// An activation as a type, so that a kernel is compiled for each.
pub(crate) trait Function: Copy {
    /// Whether a maximum pool may come before the function instead of after it, with the same output and the same gradient: values that the
    /// function maps to equal ones must have no gradient.
    const AFTER_MAXIMUM: bool = false;

    fn value<S: Simd>(self, simd: S, x: S::V) -> S::V;

    /// `gradient` times the derivative at `x`.
    fn backward<S: Simd>(self, simd: S, x: S::V, gradient: S::V) -> S::V;
}

/// Compiles an expression for each activation, with the name bound to its [`Function`].
macro_rules! with_function {
    ($activation:expr, |$function:ident| $body:expr) => {{
        use $crate::activation::{Activation, functions};
        match $activation {
            Activation::Identity => {
                let $function = functions::Identity;
                $body
            }
            Activation::Relu => {
                let $function = functions::Relu;
                $body
            }
            Activation::Relu6 => {
                let $function = functions::Relu6;
                $body
            }
            Activation::LeakyRelu { negative_slope } => {
                let $function = functions::LeakyRelu { negative_slope };
                $body
            }
            Activation::Gelu => {
                let $function = functions::Gelu;
                $body
            }
            Activation::GeluTanh => {
                let $function = functions::GeluTanh;
                $body
            }
            Activation::Silu => {
                let $function = functions::Silu;
                $body
            }
            Activation::Sigmoid => {
                let $function = functions::Sigmoid;
                $body
            }
            Activation::Tanh => {
                let $function = functions::Tanh;
                $body
            }
        }
    }};
}
pub(crate) use with_function;

/// A type for each [`Activation`].
pub(crate) mod functions {
    use super::*;

    #[derive(Clone, Copy)]
    pub(crate) struct Identity;

    impl Function for Identity {
        const AFTER_MAXIMUM: bool = true;

        #[inline(always)]
        fn value<S: Simd>(self, _: S, x: S::V) -> S::V {
            x
        }
        #[inline(always)]
        fn backward<S: Simd>(self, _: S, _: S::V, gradient: S::V) -> S::V {
            gradient
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Relu;

    impl Function for Relu {
        const AFTER_MAXIMUM: bool = true;

        #[inline(always)]
        fn value<S: Simd>(self, simd: S, x: S::V) -> S::V {
            // NaN stays NaN.
            simd.if_greater(simd.zero(), x, simd.zero(), x)
        }
        #[inline(always)]
        fn backward<S: Simd>(self, simd: S, x: S::V, gradient: S::V) -> S::V {
            simd.if_greater_or_nan(x, simd.zero(), gradient, simd.zero())
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Relu6;

    impl Function for Relu6 {
        #[inline(always)]
        fn value<S: Simd>(self, simd: S, x: S::V) -> S::V {
            let x = Relu.value(simd, x);
            simd.if_greater(x, simd.splat(6.0), simd.splat(6.0), x)
        }
        #[inline(always)]
        fn backward<S: Simd>(self, simd: S, x: S::V, gradient: S::V) -> S::V {
            let room = simd.sub(simd.splat(6.0), x);
            Relu.backward(simd, room, Relu.backward(simd, x, gradient))
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct LeakyRelu {
        pub(crate) negative_slope: f32,
    }

    impl Function for LeakyRelu {
        #[inline(always)]
        fn value<S: Simd>(self, simd: S, x: S::V) -> S::V {
            self.backward(simd, x, x)
        }
        #[inline(always)]
        fn backward<S: Simd>(self, simd: S, x: S::V, gradient: S::V) -> S::V {
            let less = simd.mul(gradient, simd.splat(self.negative_slope));
            simd.if_greater(x, simd.zero(), gradient, less)
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Gelu;

    impl Function for Gelu {
        #[inline(always)]
        fn value<S: Simd>(self, simd: S, x: S::V) -> S::V {
            simd.mul(x, normal(simd, x).0)
        }
        #[inline(always)]
        fn backward<S: Simd>(self, simd: S, x: S::V, gradient: S::V) -> S::V {
            let (below, density) = normal(simd, x);
            simd.mul(gradient, simd.mul_add(x, density, below))
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct GeluTanh;

    impl GeluTanh {
        /// `(1 + tanh(u)) / 2` is the logistic function of `2 u`: `2 u` is `LINEAR * x + CUBIC * x^3`.
        const LINEAR: f32 = SQRT_2 * FRAC_2_SQRT_PI;
        const CUBIC: f32 = 0.044715 * Self::LINEAR;
        /// From here on the derivative is 0 or 1 in `f32`; far beyond, its parts would overflow.
        const END: f32 = 16.0;
    }

    impl Function for GeluTanh {
        #[inline(always)]
        fn value<S: Simd>(self, simd: S, x: S::V) -> S::V {
            let [linear, cubic] = [Self::LINEAR, Self::CUBIC].map(|x| simd.splat(x));
            let inner = simd.mul(x, simd.mul_add(cubic, simd.mul(x, x), linear));
            simd.mul(x, logistic(simd, inner).0)
        }
        #[inline(always)]
        fn backward<S: Simd>(self, simd: S, x: S::V, gradient: S::V) -> S::V {
            let [linear, cubic, end] = [Self::LINEAR, Self::CUBIC, Self::END].map(|x| simd.splat(x));
            let x = simd.if_greater(x, end, end, x);
            let x = simd.if_greater(simd.sub(simd.zero(), end), x, simd.sub(simd.zero(), end), x);
            let square = simd.mul(x, x);
            let (value, slope) = logistic(simd, simd.mul(x, simd.mul_add(cubic, square, linear)));
            let inner = simd.mul(x, simd.mul_add(simd.mul(simd.splat(3.0), cubic), square, linear));
            simd.mul(gradient, simd.mul_add(slope, inner, value))
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Silu;

    impl Function for Silu {
        #[inline(always)]
        fn value<S: Simd>(self, simd: S, x: S::V) -> S::V {
            simd.mul(x, logistic(simd, x).0)
        }
        #[inline(always)]
        fn backward<S: Simd>(self, simd: S, x: S::V, gradient: S::V) -> S::V {
            let (value, slope) = logistic(simd, x);
            simd.mul(gradient, simd.mul_add(x, slope, value))
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Sigmoid;

    impl Function for Sigmoid {
        #[inline(always)]
        fn value<S: Simd>(self, simd: S, x: S::V) -> S::V {
            logistic(simd, x).0
        }
        #[inline(always)]
        fn backward<S: Simd>(self, simd: S, x: S::V, gradient: S::V) -> S::V {
            simd.mul(gradient, logistic(simd, x).1)
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Tanh;

    impl Function for Tanh {
        #[inline(always)]
        fn value<S: Simd>(self, simd: S, x: S::V) -> S::V {
            tanh(simd, x).0
        }
        #[inline(always)]
        fn backward<S: Simd>(self, simd: S, x: S::V, gradient: S::V) -> S::V {
            simd.mul(gradient, tanh(simd, x).1)
        }
    }
}
