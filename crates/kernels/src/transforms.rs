//! Winograd's minimal filtering F(m, 3) in one dimension, and its adjoints (Lavin and Gray 2016, arXiv:1509.09308).
//!
//! `m` outputs of a filter `g` of three taps over `m + 2` inputs `d` are `A' [(G g) * (B' d)]`. The matrices come from the
//! Toom-Cook construction on the points of each size (and infinity); a transform and its adjoint are the same table read along
//! rows or columns, so that the gradients are exactly those of what the forward pass computes.

use crate::simd::Simd;

/// A size of the transform: `M` outputs, `A = M + 2` products.
pub(crate) trait Tile<const M: usize, const A: usize>: Send + Sync + 'static {
    /// `B'`, of the inputs.
    const INPUT: [[f32; A]; A];
    /// `G`, of the filter.
    const FILTER: [[f32; 3]; A];
    /// `A'`, of the products.
    const OUTPUT: [[f32; A]; M];

    #[inline(always)]
    fn input<S: Simd>(simd: S, d: [S::V; A]) -> [S::V; A] {
        apply(simd, &Self::INPUT, d)
    }
    #[inline(always)]
    fn input_adjoint<S: Simd>(simd: S, v: [S::V; A]) -> [S::V; A] {
        apply_adjoint(simd, &Self::INPUT, v)
    }
    #[inline(always)]
    fn filter<S: Simd>(simd: S, g: [S::V; 3]) -> [S::V; A] {
        apply(simd, &Self::FILTER, g)
    }
    #[inline(always)]
    fn filter_adjoint<S: Simd>(simd: S, u: [S::V; A]) -> [S::V; 3] {
        apply_adjoint(simd, &Self::FILTER, u)
    }
    #[inline(always)]
    fn output<S: Simd>(simd: S, m: [S::V; A]) -> [S::V; M] {
        apply(simd, &Self::OUTPUT, m)
    }
    #[inline(always)]
    fn output_adjoint<S: Simd>(simd: S, y: [S::V; M]) -> [S::V; A] {
        apply_adjoint(simd, &Self::OUTPUT, y)
    }
}

/// `sum + factor * x`; the factors are constants, so that the branches vanish and zeros cost nothing.
#[inline(always)]
fn term<S: Simd>(simd: S, sum: Option<S::V>, factor: f32, x: S::V) -> Option<S::V> {
    if factor == 0.0 {
        return sum;
    }
    Some(match sum {
        None if factor == 1.0 => x,
        None => simd.mul(simd.splat(factor), x),
        Some(sum) if factor == 1.0 => simd.add(sum, x),
        Some(sum) if factor == -1.0 => simd.sub(sum, x),
        Some(sum) => simd.mul_add(simd.splat(factor), x, sum),
    })
}

#[inline(always)]
fn apply<S: Simd, const R: usize, const C: usize>(simd: S, matrix: &[[f32; C]; R], x: [S::V; C]) -> [S::V; R] {
    let mut y = [simd.zero(); R];
    for r in 0..R {
        let mut sum = None;
        for c in 0..C {
            sum = term(simd, sum, matrix[r][c], x[c]);
        }
        if let Some(sum) = sum {
            y[r] = sum;
        }
    }
    y
}

#[inline(always)]
fn apply_adjoint<S: Simd, const R: usize, const C: usize>(
    simd: S,
    matrix: &[[f32; C]; R],
    x: [S::V; R],
) -> [S::V; C] {
    let mut y = [simd.zero(); C];
    for c in 0..C {
        let mut sum = None;
        for r in 0..R {
            sum = term(simd, sum, matrix[r][c], x[r]);
        }
        if let Some(sum) = sum {
            y[c] = sum;
        }
    }
    y
}

/// F(2, 3) on the points 0, 1, -1.
pub(crate) struct F2;

impl Tile<2, 4> for F2 {
    const INPUT: [[f32; 4]; 4] =
        [[1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, -1.0, 1.0, 0.0], [0.0, -1.0, 0.0, 1.0]];
    const FILTER: [[f32; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];
    const OUTPUT: [[f32; 4]; 2] = [[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, -1.0, 1.0]];
}

/// F(3, 3) on the points 0, 1, -1, 2.
pub(crate) struct F3;

impl Tile<3, 5> for F3 {
    const INPUT: [[f32; 5]; 5] = [
        [2.0, -1.0, -2.0, 1.0, 0.0],
        [0.0, -2.0, -1.0, 1.0, 0.0],
        [0.0, 2.0, -3.0, 1.0, 0.0],
        [0.0, -1.0, 0.0, 1.0, 0.0],
        [0.0, 2.0, -1.0, -2.0, 1.0],
    ];
    const FILTER: [[f32; 3]; 5] = [
        [1.0 / 2.0, 0.0, 0.0],
        [-1.0 / 2.0, -1.0 / 2.0, -1.0 / 2.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 6.0, 1.0 / 3.0, 2.0 / 3.0],
        [0.0, 0.0, 1.0],
    ];
    const OUTPUT: [[f32; 5]; 3] =
        [[1.0, 1.0, 1.0, 1.0, 0.0], [0.0, 1.0, -1.0, 2.0, 0.0], [0.0, 1.0, 1.0, 4.0, 1.0]];
}

/// F(4, 3) on the points 0, 1, -1, 2, -2.
pub(crate) struct F4;

impl Tile<4, 6> for F4 {
    const INPUT: [[f32; 6]; 6] = [
        [4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
        [0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
        [0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
        [0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
        [0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
        [0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
    ];
    const FILTER: [[f32; 3]; 6] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];
    const OUTPUT: [[f32; 6]; 4] = [
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        [0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
        [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
        [0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
    ];

    // The four transforms of activations, with sums and differences shared between the rows of opposite points.

    #[inline(always)]
    fn input<S: Simd>(s: S, d: [S::V; 6]) -> [S::V; 6] {
        let (two, four) = (s.splat(2.0), s.splat(-4.0));
        let (even, odd) = (s.mul_add(four, d[2], d[4]), s.mul_add(four, d[1], d[3]));
        let (p, q) = (s.sub(d[4], d[2]), s.mul(two, s.sub(d[3], d[1])));
        [
            s.mul_add(four, s.sub(d[2], d[0]), p),
            s.add(even, odd),
            s.sub(even, odd),
            s.add(p, q),
            s.sub(p, q),
            s.mul_add(s.splat(-2.0), q, s.sub(d[5], d[3])),
        ]
    }
    #[inline(always)]
    fn input_adjoint<S: Simd>(s: S, v: [S::V; 6]) -> [S::V; 6] {
        let (two, four, five) = (s.splat(2.0), s.splat(4.0), s.splat(-5.0));
        let (sum1, difference1) = (s.add(v[1], v[2]), s.sub(v[1], v[2]));
        let (sum2, difference2) = (s.add(v[3], v[4]), s.mul(two, s.sub(v[3], v[4])));
        [
            s.mul(four, v[0]),
            s.mul_add(four, s.sub(v[5], difference1), s.sub(s.zero(), difference2)),
            s.mul_add(five, v[0], s.mul_add(s.splat(-4.0), sum1, s.sub(s.zero(), sum2))),
            s.mul_add(five, v[5], s.add(difference1, difference2)),
            s.add(v[0], s.add(sum1, sum2)),
            v[5],
        ]
    }
    #[inline(always)]
    fn output<S: Simd>(s: S, m: [S::V; 6]) -> [S::V; 4] {
        let (sum1, difference1) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
        let (sum2, difference2) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
        [
            s.add(m[0], s.add(sum1, sum2)),
            s.mul_add(s.splat(2.0), difference2, difference1),
            s.mul_add(s.splat(4.0), sum2, sum1),
            s.add(m[5], s.mul_add(s.splat(8.0), difference2, difference1)),
        ]
    }
    #[inline(always)]
    fn output_adjoint<S: Simd>(s: S, y: [S::V; 4]) -> [S::V; 6] {
        let four = s.splat(4.0);
        let (even1, odd1) = (s.add(y[0], y[2]), s.add(y[1], y[3]));
        let even2 = s.mul_add(four, y[2], y[0]);
        let odd2 = s.mul(s.splat(2.0), s.mul_add(four, y[3], y[1]));
        [y[0], s.add(even1, odd1), s.sub(even1, odd1), s.add(even2, odd2), s.sub(even2, odd2), y[3]]
    }
}

/// F(5, 3) on the points 0, 1, -1, 2, -2, 1/2.
pub(crate) struct F5;

impl Tile<5, 7> for F5 {
    const INPUT: [[f32; 7]; 7] = [
        [-2.0, 4.0, 2.5, -5.0, -0.5, 1.0, 0.0],
        [0.0, 2.0, -2.0, -4.5, 0.5, 1.0, 0.0],
        [0.0, -2.0, 6.0, -3.5, -1.5, 1.0, 0.0],
        [0.0, 1.0, -1.5, -2.0, 1.5, 1.0, 0.0],
        [0.0, -1.0, 2.5, 0.0, -2.5, 1.0, 0.0],
        [0.0, 4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
        [0.0, -2.0, 4.0, 2.5, -5.0, -0.5, 1.0],
    ];
    const FILTER: [[f32; 3]; 7] = [
        [-1.0 / 2.0, 0.0, 0.0],
        [-1.0 / 3.0, -1.0 / 3.0, -1.0 / 3.0],
        [1.0 / 9.0, -1.0 / 9.0, 1.0 / 9.0],
        [1.0 / 36.0, 1.0 / 18.0, 1.0 / 9.0],
        [-1.0 / 60.0, 1.0 / 30.0, -1.0 / 15.0],
        [32.0 / 45.0, 16.0 / 45.0, 8.0 / 45.0],
        [0.0, 0.0, 1.0],
    ];
    const OUTPUT: [[f32; 7]; 5] = [
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        [0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 0.0],
        [0.0, 1.0, 1.0, 4.0, 4.0, 0.25, 0.0],
        [0.0, 1.0, -1.0, 8.0, -8.0, 0.125, 0.0],
        [0.0, 1.0, 1.0, 16.0, 16.0, 0.0625, 1.0],
    ];
}
