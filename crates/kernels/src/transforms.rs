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
fn apply<S: Simd, const R: usize, const C: usize>(
    simd: S,
    matrix: &[[f32; C]; R],
    x: [S::V; C],
) -> [S::V; R] {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel};

    /// Runs one transform on the first lane.
    struct Lane<F>(F);

    /// A transform by name, generic over the vectors.
    #[derive(Clone, Copy, Debug)]
    enum Which {
        Input,
        InputAdjoint,
        Filter,
        FilterAdjoint,
        Output,
        OutputAdjoint,
    }

    struct Call<'a, const M: usize, const A: usize, T> {
        which: Which,
        x: &'a [f32],
        tile: std::marker::PhantomData<T>,
    }

    impl<const M: usize, const A: usize, T: Tile<M, A>> Kernel for Lane<Call<'_, M, A, T>> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Vec<f32> {
            let x = self.0.x;
            fn vectors<S: Simd, const N: usize>(simd: S, x: &[f32]) -> [S::V; N] {
                std::array::from_fn(|i| simd.splat(x[i]))
            }
            fn lanes<S: Simd, const N: usize>(simd: S, y: [S::V; N]) -> Vec<f32> {
                y.into_iter()
                    .map(|y| {
                        let mut lanes = [0.0; 16];
                        // SAFETY: WIDTH is at most 16.
                        unsafe { simd.store(lanes.as_mut_ptr(), y) };
                        assert!(lanes[..S::WIDTH].iter().all(|lane| *lane == lanes[0]));
                        lanes[0]
                    })
                    .collect()
            }
            match self.0.which {
                Which::Input => lanes(simd, T::input(simd, vectors(simd, x))),
                Which::InputAdjoint => lanes(simd, T::input_adjoint(simd, vectors(simd, x))),
                Which::Filter => lanes(simd, T::filter(simd, vectors(simd, x))),
                Which::FilterAdjoint => lanes(simd, T::filter_adjoint(simd, vectors(simd, x))),
                Which::Output => lanes(simd, T::output(simd, vectors(simd, x))),
                Which::OutputAdjoint => lanes(simd, T::output_adjoint(simd, vectors(simd, x))),
            }
        }
    }

    fn call<const M: usize, const A: usize, T: Tile<M, A>>(isa: Isa, which: Which, x: &[f32]) -> Vec<f32> {
        isa.run(Lane(Call::<M, A, T> { which, x, tile: std::marker::PhantomData }))
    }

    /// In exact arithmetic the matrices are a convolution: checked in `f64` on whole numbers, where only the constants' own rounding
    /// is left.
    fn is_a_convolution<const M: usize, const A: usize, T: Tile<M, A>>() {
        let d: Vec<f64> = (0..A).map(|i| ((i * 7 + 3) % 11) as f64 - 5.0).collect();
        let g = [3.0, -2.0, 5.0];
        let times = |row: &[f32], x: &[f64]| row.iter().zip(x).map(|(a, x)| f64::from(*a) * x).sum::<f64>();
        let products: Vec<f64> = (0..A).map(|i| times(&T::INPUT[i], &d) * times(&T::FILTER[i], &g)).collect();
        for m in 0..M {
            let expected: f64 = (0..3).map(|k| g[k] * d[m + k]).sum();
            let got = times(&T::OUTPUT[m], &products);
            assert!(
                (got - expected).abs() < 1e-5 * (A * A) as f64,
                "F({M}, 3) output {m}: {got}, not {expected}"
            );
        }
    }

    #[test]
    fn the_matrices_are_convolutions() {
        is_a_convolution::<2, 4, F2>();
        is_a_convolution::<3, 5, F3>();
        is_a_convolution::<4, 6, F4>();
        is_a_convolution::<5, 7, F5>();
    }

    /// Every transform, written out or not, is its matrix; every adjoint is the same matrix transposed.
    fn is_its_matrix<const M: usize, const A: usize, T: Tile<M, A>>() {
        let matrix = |rows: Vec<&[f32]>| rows.into_iter().map(<[f32]>::to_vec).collect::<Vec<_>>();
        let input = matrix(T::INPUT.iter().map(|row| &row[..]).collect());
        let filter = matrix(T::FILTER.iter().map(|row| &row[..]).collect());
        let output = matrix(T::OUTPUT.iter().map(|row| &row[..]).collect());
        for isa in Isa::available() {
            for (matrix, forward, adjoint) in [
                (&input, Which::Input, Which::InputAdjoint),
                (&filter, Which::Filter, Which::FilterAdjoint),
                (&output, Which::Output, Which::OutputAdjoint),
            ] {
                let (rows, columns) = (matrix.len(), matrix[0].len());
                for column in 0..columns {
                    let unit: Vec<f32> = (0..columns).map(|c| f32::from(u8::from(c == column))).collect();
                    let got = call::<M, A, T>(isa, forward, &unit);
                    let expected: Vec<f32> = matrix.iter().map(|row| row[column]).collect();
                    assert_eq!(got, expected, "F({M}, 3) {forward:?} of unit {column} on {isa}");
                }
                for row in 0..rows {
                    let unit: Vec<f32> = (0..rows).map(|r| f32::from(u8::from(r == row))).collect();
                    let got = call::<M, A, T>(isa, adjoint, &unit);
                    assert_eq!(got, matrix[row], "F({M}, 3) {adjoint:?} of unit {row} on {isa}");
                }
            }
        }
    }

    #[test]
    fn the_transforms_are_their_matrices() {
        is_its_matrix::<2, 4, F2>();
        is_its_matrix::<3, 5, F3>();
        is_its_matrix::<4, 6, F4>();
        is_its_matrix::<5, 7, F5>();
    }
}
