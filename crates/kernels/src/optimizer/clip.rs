use super::runs::RUN;
use crate::gemm::PANEL;
use crate::simd::{Isa, Kernel, Simd};
use rayon::prelude::*;

/// The root of the sum of squares, in `f64`: from sums over runs of fixed length, added in order.
#[must_use]
pub fn l2_norm(isa: Isa, values: &[f32]) -> f64 {
    let sums: Vec<f64> = values.par_chunks(RUN).map(|run| isa.run(SumOfSquares(run))).collect();
    sums.iter().sum::<f64>().sqrt()
}

/// Multiplies every value by a factor.
///
/// # Panics
/// When the number of values is not a multiple of 16.
pub fn scale_all(isa: Isa, factor: f32, values: &mut [f32]) {
    assert!(values.len().is_multiple_of(PANEL));
    values.par_chunks_mut(RUN).for_each(|values| isa.run(Scale { factor, values }));
}

struct SumOfSquares<'a>(&'a [f32]);

impl Kernel for SumOfSquares<'_> {
    type Output = f64;

    /// Every instruction set adds in the same order: there is nothing to round in a product of two floats in `f64`.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        const LANES: usize = 16;
        let mut sums = [0.0; LANES];
        let (rows, rest) = self.0.as_chunks::<LANES>();
        for row in rows {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += f64::from(*value) * f64::from(*value);
            }
        }
        for (sum, value) in sums.iter_mut().zip(rest) {
            *sum += f64::from(*value) * f64::from(*value);
        }
        sums.iter().sum()
    }
}

struct Scale<'a> {
    factor: f32,
    values: &'a mut [f32],
}

impl Kernel for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let factor = simd.splat(self.factor);
        for at in (0..self.values.len()).step_by(S::WIDTH) {
            // SAFETY: a multiple of 16 floats.
            unsafe {
                let target = self.values.as_mut_ptr().add(at);
                simd.store(target, simd.mul(simd.load(target), factor));
            }
        }
    }
}
