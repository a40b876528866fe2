use super::runs::for_each_run;
use crate::simd::{Isa, Kernel, Simd};

/// Updates an exponential moving average: `decay * average + (1 - decay) * values`, like `torch.lerp`, which is exact at the nearer end.
///
/// # Panics
/// When the slices differ in length, or the length is not a multiple of 16.
pub fn average(isa: Isa, decay: f64, values: &[f32], average: &mut [f32]) {
    for_each_run([average], values, |[average], values| isa.run(Lerp { decay, values, average }));
}

struct Lerp<'a> {
    decay: f64,
    values: &'a [f32],
    average: &'a mut [f32],
}

impl Kernel for Lerp<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let from_average = self.decay > 0.5;
        let share = if from_average { 1.0 - self.decay } else { self.decay };
        let share = simd.splat(share as f32);
        for at in (0..self.average.len()).step_by(S::WIDTH) {
            // SAFETY: two slices of one length, a multiple of 16.
            unsafe {
                let target = self.average.as_mut_ptr().add(at);
                let (average, value) = (simd.load(target), simd.load(self.values.as_ptr().add(at)));
                let (start, end) = if from_average { (average, value) } else { (value, average) };
                simd.store(target, simd.mul_add(share, simd.sub(end, start), start));
            }
        }
    }
}
