//! Adam (Kingma and Ba 2015, arXiv:1412.6980) with the L2 penalty in the gradient, as `torch.optim.Adam(weight_decay=...)`.

use crate::memory::Shared;
use crate::parallel::for_each_task;
use crate::simd::{Isa, Kernel, Simd};

/// The constants of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Step size.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Factor of the L2 penalty's gradient.
    pub weight_decay: f64,
    /// The step's number, from 1.
    pub step: u64,
}

/// Updates parameters and both moments, element by element, in PyTorch's order of operations.
///
/// # Panics
/// When the slices differ in length or are no multiple of 16 long.
pub fn adam(
    isa: Isa,
    step: AdamStep,
    parameters: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let len = parameters.len();
    assert!(gradients.len() == len && first.len() == len && second.len() == len && len.is_multiple_of(16));
    let exponent = step.step as f64;
    let first_correction = 1.0 - step.beta1.powf(exponent);
    let second_correction = 1.0 - step.beta2.powf(exponent);
    let constants = Constants {
        weight_decay: step.weight_decay as f32,
        first_rate: (1.0 - step.beta1) as f32,
        second_decay: step.beta2 as f32,
        second_rate: (1.0 - step.beta2) as f32,
        inverse_root: (1.0 / second_correction.sqrt()) as f32,
        eps: step.eps as f32,
        rate: (step.lr / first_correction) as f32,
    };
    let [parameters, first, second] = [parameters, first, second].map(Shared::new);
    const RUN: usize = 1 << 14;
    for_each_task(len.div_ceil(RUN), |task| {
        let range = task * RUN..len.min((task + 1) * RUN);
        // SAFETY: every run belongs to one task.
        let [parameters, first, second] =
            unsafe { [&parameters, &first, &second].map(|all| all.part(range.clone())) };
        let gradients = &gradients[range.clone()];
        isa.run(Update { constants, parameters, gradients, first, second });
    });
}

#[derive(Clone, Copy)]
struct Constants {
    weight_decay: f32,
    first_rate: f32,
    second_decay: f32,
    second_rate: f32,
    inverse_root: f32,
    eps: f32,
    rate: f32,
}

struct Update<'a> {
    constants: Constants,
    parameters: &'a mut [f32],
    gradients: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let c = self.constants;
        let (weight_decay, first_rate) = (simd.splat(c.weight_decay), simd.splat(c.first_rate));
        let (second_decay, second_rate) = (simd.splat(c.second_decay), simd.splat(c.second_rate));
        let (inverse_root, eps, rate) = (simd.splat(c.inverse_root), simd.splat(c.eps), simd.splat(-c.rate));
        for at in (0..self.parameters.len()).step_by(S::WIDTH) {
            // SAFETY: four slices of one length, a multiple of 16.
            unsafe {
                let parameter = self.parameters.as_mut_ptr().add(at);
                let (first, second) = (self.first.as_mut_ptr().add(at), self.second.as_mut_ptr().add(at));
                let value = simd.load(parameter);
                let gradient = simd.mul_add(weight_decay, value, simd.load(self.gradients.as_ptr().add(at)));
                let moment = simd.load(first);
                let moment = simd.mul_add(simd.sub(gradient, moment), first_rate, moment);
                let square = simd.mul(simd.load(second), second_decay);
                let square = simd.mul_add(simd.mul(gradient, gradient), second_rate, square);
                let root = simd.mul_add(simd.sqrt(square), inverse_root, eps);
                simd.store(first, moment);
                simd.store(second, square);
                simd.store(parameter, simd.mul_add(rate, simd.div(moment, root), value));
            }
        }
    }
}
