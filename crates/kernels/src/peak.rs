//! The processor's peak performance.

use crate::simd::{Isa, Kernel, Simd};
use std::hint::black_box;
use std::time::Instant;

/// The rate of multiply-adds on registers alone, of one thread, in 10^9 floating-point operations per second: the ceiling for every kernel.
///
/// Takes about a tenth of a second.
#[must_use]
pub fn peak_gflops(isa: Isa) -> f64 {
    const ROUNDS: usize = 2_000_000;
    // Other work on the machine only slows it down: the best of a few.
    (0..5)
        .map(|_| {
            let start = Instant::now();
            let operations = isa.run(MultiplyAdds { rounds: black_box(ROUNDS) });
            operations / start.elapsed().as_secs_f64() / 1e9
        })
        .fold(0.0, f64::max)
}

struct MultiplyAdds {
    rounds: usize,
}

impl Kernel for MultiplyAdds {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        // Enough independent chains to fill the pipelines: latency 4, two per cycle.
        const CHAINS: usize = 12;
        let mut sums = [simd.splat(black_box(1.0)); CHAINS];
        let (a, b) = (simd.splat(black_box(0.999)), simd.splat(black_box(0.001)));
        for _ in 0..self.rounds {
            for sum in &mut sums {
                // The sum is the addend, which is what an instruction of Arm overwrites.
                *sum = simd.mul_add(a, b, *sum);
            }
        }
        let mut kept = [0.0; 16];
        for sum in sums {
            // SAFETY: WIDTH is at most 16.
            unsafe { simd.store(kept.as_mut_ptr(), sum) };
            black_box(kept);
        }
        (self.rounds * CHAINS * S::WIDTH * 2) as f64
    }
}
