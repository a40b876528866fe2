//! The exponential function and functions built on it, on vectors.
//!
//! Each is accurate relative to its own value, in the tails as well, as the tests below check. A NaN gives a NaN. The instruction sets with
//! fused multiplication give the same bits; the portable path rounds products and has errors of the same size.

use crate::simd::{ROUND, Simd};

/// The polynomial with the lowest coefficient first.
#[inline(always)]
fn polynomial<S: Simd>(simd: S, coefficients: &[f32], x: S::V) -> S::V {
    let mut highest_first = coefficients.iter().rev();
    let mut sum = simd.splat(*highest_first.next().expect("a polynomial has a coefficient"));
    for coefficient in highest_first {
        sum = simd.mul_add(sum, x, simd.splat(*coefficient));
    }
    sum
}

#[inline(always)]
fn negative<S: Simd>(simd: S, x: S::V) -> S::V {
    simd.sub(simd.zero(), x)
}

#[inline(always)]
fn absolute<S: Simd>(simd: S, x: S::V) -> S::V {
    let opposite = negative(simd, x);
    simd.if_greater(x, opposite, x, opposite)
}

/// `exp(x)`, within 2 units in the last place, where the result is subnormal too: zero below -104, infinite above 88.73.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::V) -> S::V {
    exp_of_sum(simd, x, simd.zero())
}

/// `exp(high + low)` for `|low|` up to 0.06, as if the sum were not rounded.
///
/// `2^n exp(r)` with `n` the nearest to `x / ln 2`; `ln 2` is split into two parts, the first with so few digits that its product with `n`
/// is exact. The polynomial is that of `expf` in Cephes (Moshier 1992).
#[inline(always)]
fn exp_of_sum<S: Simd>(simd: S, high: S::V, low: S::V) -> S::V {
    const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];
    const P: [f32; 6] = [0.5, 1.666_666_5e-1, 4.166_579_6e-2, 8.333_452e-3, 1.398_199_9e-3, 1.987_569_2e-4];
    // Beyond these the result is zero or infinite. A NaN is kept.
    let x = simd.if_greater(simd.splat(-110.0), high, simd.splat(-110.0), high);
    let x = simd.if_greater(x, simd.splat(90.0), simd.splat(90.0), x);
    let round = simd.splat(ROUND);
    let n = simd.sub(simd.mul_add(x, simd.splat(std::f32::consts::LOG2_E), round), round);
    let r = simd.mul_add(n, simd.splat(-LN_2[0]), x);
    let r = simd.add(simd.mul_add(n, simd.splat(-LN_2[1]), r), low);
    let p = simd.mul_add(simd.mul(r, r), polynomial(simd, &P, r), r);
    let p = simd.add(p, simd.splat(1.0));
    // In two steps, as 2^n itself may be out of range; only the second one can round.
    let half = simd.sub(simd.mul_add(n, simd.splat(0.5), round), round);
    simd.mul(simd.mul(p, simd.power_of_two(half)), simd.power_of_two(simd.sub(n, half)))
}

/// `1 / (1 + exp(-x))`, and its derivative.
#[inline(always)]
pub(crate) fn logistic<S: Simd>(simd: S, x: S::V) -> (S::V, S::V) {
    // For either sign, the exponential that cannot overflow, and no difference from 1.
    let e = exp(simd, negative(simd, absolute(simd, x)));
    let larger = simd.div(simd.splat(1.0), simd.add(simd.splat(1.0), e));
    let smaller = simd.mul(e, larger);
    (simd.if_greater(simd.zero(), x, smaller, larger), simd.mul(smaller, larger))
}

/// The hyperbolic tangent, and its derivative.
///
/// Near zero, where the quotient of exponentials loses digits, it is the polynomial of `tanhf` in Cephes (Moshier 1992).
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::V) -> (S::V, S::V) {
    const P: [f32; 6] =
        [1.0, -3.333_328e-1, 1.333_144_2e-1, -5.373_971_6e-2, 2.063_908_8e-2, -5.704_988_7e-3];
    const NEAR: f32 = 0.625;
    let one = simd.splat(1.0);
    let distance = absolute(simd, x);
    let e = exp(simd, simd.mul(simd.splat(-2.0), distance));
    let inverse = simd.div(one, simd.add(one, e));
    let far = simd.div(simd.sub(one, e), simd.add(one, e));
    let far = simd.if_greater(simd.zero(), x, negative(simd, far), far);
    let near = simd.mul(x, polynomial(simd, &P, simd.mul(x, x)));
    let slope = simd.mul(simd.mul(simd.mul(simd.splat(4.0), e), inverse), inverse);
    (simd.if_greater(simd.splat(NEAR), distance, near, far), slope)
}

/// The normal distribution: the probability below `x`, `(1 + erf(x / sqrt(2))) / 2`, and the density.
///
/// For `a = |x|` the probability below `-a` is `exp(-a^2/2) q(t) / (1 + sqrt(2) a)` with `t = (a - 4) / (a + 4)`, the form of Shepherd and
/// Laframboise (1981, Math. Comp. 36) for the complementary error function: `q` is so smooth that one polynomial serves the whole
/// half-line. Its coefficients interpolate `q` at the Chebyshev points of `0 <= a <= 14.5`, computed with 40 digits; they are right to
/// 4e-9.
#[inline(always)]
pub(crate) fn normal<S: Simd>(simd: S, x: S::V) -> (S::V, S::V) {
    /// From here on a probability or density is zero in `f32`.
    const END: f32 = 14.5;
    const Q: [f32; 11] = [
        6.284_779e-1,
        -6.617_831e-2,
        -3.172_110_5e-2,
        7.014_86e-2,
        -5.831_916_8e-2,
        2.888_907e-2,
        -7.283_734_5e-3,
        -6.937_629e-4,
        1.049_608_1e-3,
        -6.962_282e-5,
        -1.074_953_9e-4,
    ];
    const DENSITY_AT_ZERO: f32 = 0.398_942_3;
    /// Adding and subtracting it rounds to multiples of 1/128: so few digits that the square is exact.
    const COARSE: f32 = ROUND / 128.0;
    let one = simd.splat(1.0);
    let a = absolute(simd, x);
    let a = simd.if_greater(a, simd.splat(END), simd.splat(END), a);
    // a^2 = high^2 + (a - high) (a + high): rounded as a whole it would cost the tail its last digits.
    let high = simd.sub(simd.add(a, simd.splat(COARSE)), simd.splat(COARSE));
    let low = simd.mul(simd.sub(a, high), simd.add(a, high));
    let half = simd.splat(-0.5);
    let e = exp_of_sum(simd, simd.mul(half, simd.mul(high, high)), simd.mul(half, low));
    let t = simd.div(simd.sub(a, simd.splat(4.0)), simd.add(a, simd.splat(4.0)));
    let q = polynomial(simd, &Q, t);
    let tail = simd.div(simd.mul(e, q), simd.mul_add(simd.splat(std::f32::consts::SQRT_2), a, one));
    let below = simd.if_greater(x, simd.zero(), simd.sub(one, tail), tail);
    (below, simd.mul(e, simd.splat(DENSITY_AT_ZERO)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel};

    struct Exponentials<'a>(&'a mut [f32]);

    impl Kernel for Exponentials<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            for x in self.0.chunks_exact_mut(S::WIDTH) {
                // SAFETY: `WIDTH` floats.
                unsafe { simd.store(x.as_mut_ptr(), exp(simd, simd.load(x.as_ptr()))) };
            }
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        // Floats of every size and sign, then the range in which the result is neither zero nor infinite.
        let mut x: Vec<f32> = (0..1 << 16).map(|i| f32::from_bits(i << 16)).collect();
        x.extend((0..1 << 17).map(|i| -104.0 + i as f32 * (193.0 / (1 << 17) as f32)));
        x.extend([
            -0.0,
            1e-45,
            -1e-45,
            88.722_83,
            88.722_84,
            -87.336_54,
            -103.972_07,
            -103.972_09,
            90.0,
            -110.0,
        ]);
        x.resize(x.len().next_multiple_of(16), 0.0);
        for isa in Isa::available() {
            let mut got = x.clone();
            isa.run(Exponentials(&mut got));
            for (x, got) in x.iter().zip(got) {
                let expected = f64::from(*x).exp();
                let rounded = expected as f32;
                if x.is_nan() {
                    assert!(got.is_nan(), "{isa}: exp({x}) = {got}");
                } else if rounded.is_infinite() {
                    assert_eq!(got, rounded, "{isa}: exp({x})");
                } else {
                    let unit = f64::from(rounded.next_up()) - f64::from(rounded);
                    let error = (f64::from(got) - expected).abs() / unit.min(f64::from(f32::MAX));
                    assert!(error <= 2.0, "{isa}: exp({x}) = {got}, {error} units from {expected}");
                }
            }
        }
    }
}
