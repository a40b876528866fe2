use super::runs::for_each_run;
use crate::simd::{Isa, Kernel, Simd};

/// The constants of one step of gradient descent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdStep {
    /// Step size.
    pub lr: f64,
    /// Decay of the momentum buffer. With zero, the buffer is neither read nor written.
    pub momentum: f64,
    /// Factor of the L2 penalty's gradient.
    pub weight_decay: f64,
    /// Whether the step goes along `gradient + momentum * buffer` in place of the buffer.
    pub nesterov: bool,
}

/// Gradient descent with momentum and the L2 penalty in the gradient, as `torch.optim.SGD`: updates parameters and the momentum
/// buffer, which becomes `momentum * buffer + gradient`.
///
/// # Panics
/// When the slices differ in length, or the length is not a multiple of 16.
pub fn sgd(isa: Isa, step: SgdStep, parameters: &mut [f32], gradients: &[f32], buffer: &mut [f32]) {
    for_each_run([parameters, buffer], gradients, |[parameters, buffer], gradients| {
        isa.run(Update { step, parameters, gradients, buffer });
    });
}

struct Update<'a> {
    step: SgdStep,
    parameters: &'a mut [f32],
    gradients: &'a [f32],
    buffer: &'a mut [f32],
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let SgdStep { lr, momentum, weight_decay, nesterov } = self.step;
        let has_momentum = momentum != 0.0;
        let [rate, momentum, weight_decay] =
            [-lr, momentum, weight_decay].map(|constant| simd.splat(constant as f32));
        for at in (0..self.parameters.len()).step_by(S::WIDTH) {
            // SAFETY: three slices of one length, a multiple of 16.
            unsafe {
                let parameter = self.parameters.as_mut_ptr().add(at);
                let value = simd.load(parameter);
                let gradient = simd.mul_add(weight_decay, value, simd.load(self.gradients.as_ptr().add(at)));
                let mut direction = gradient;
                if has_momentum {
                    let buffer = self.buffer.as_mut_ptr().add(at);
                    direction = simd.mul_add(momentum, simd.load(buffer), gradient);
                    simd.store(buffer, direction);
                    if nesterov {
                        direction = simd.mul_add(momentum, direction, gradient);
                    }
                }
                simd.store(parameter, simd.mul_add(rate, direction, value));
            }
        }
    }
}
