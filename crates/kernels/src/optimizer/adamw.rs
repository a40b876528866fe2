use super::adam::{AdamStep, MomentConstants};
use super::runs::for_each_run;
use crate::simd::{Isa, Kernel, Simd};

/// AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), as `torch.optim.AdamW`: shrinks the parameters by
/// `1 - lr * weight_decay`, then moves them as Adam does without a penalty.
///
/// # Panics
/// When the slices differ in length or are no multiple of 16 long.
pub fn adamw(
    isa: Isa,
    step: AdamStep,
    parameters: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let (shrink, moments) = ((1.0 - step.lr * step.weight_decay) as f32, MomentConstants::new(&step));
    for_each_run([parameters, first, second], gradients, |[parameters, first, second], gradients| {
        isa.run(Update { shrink, moments, parameters, gradients, first, second });
    });
}

struct Update<'a> {
    shrink: f32,
    moments: MomentConstants,
    parameters: &'a mut [f32],
    gradients: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (shrink, moments) = (simd.splat(self.shrink), self.moments.vectors(simd));
        for at in (0..self.parameters.len()).step_by(S::WIDTH) {
            // SAFETY: four slices of one length, a multiple of 16.
            unsafe {
                let parameter = self.parameters.as_mut_ptr().add(at);
                let (first, second) = (self.first.as_mut_ptr().add(at), self.second.as_mut_ptr().add(at));
                let value = simd.mul(simd.load(parameter), shrink);
                let gradient = simd.load(self.gradients.as_ptr().add(at));
                simd.store(parameter, moments.step(simd, value, gradient, first, second));
            }
        }
    }
}
