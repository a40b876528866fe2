use super::runs::for_each_run;
use crate::simd::{Isa, Kernel, Simd};

/// The constants of one step of Adam or AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Step size.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment: see [`AdamStep::eps`].
    pub eps: f64,
    /// Factor of the L2 penalty's gradient; for AdamW, of the decoupled weight decay.
    pub weight_decay: f64,
    /// The step's number, from 1.
    pub step: u64,
}

impl AdamStep {
    /// The value added to the root of the second moment: above zero, so that a parameter that never had a gradient stays unchanged, where
    /// PyTorch with an `eps` of zero divides zero by zero. The root of any positive float is so large that the difference never shows.
    #[must_use]
    pub fn eps(&self) -> f64 {
        self.eps.max(f64::from(f32::MIN_POSITIVE))
    }
}

/// Adam (Kingma and Ba 2015, arXiv:1412.6980) with the L2 penalty in the gradient, as `torch.optim.Adam(weight_decay=...)`: updates
/// parameters and both moments.
///
/// # Panics
/// When the slices differ in length, or the length is not a multiple of 16.
pub fn adam(
    isa: Isa,
    step: AdamStep,
    parameters: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    update::<false>(isa, step, step.weight_decay, parameters, gradients, first, second);
}

/// A step of Adam or, `DECOUPLED`, of AdamW: `decay` is the factor of the penalty's gradient or, for AdamW, that of the parameters.
pub(super) fn update<const DECOUPLED: bool>(
    isa: Isa,
    step: AdamStep,
    decay: f64,
    parameters: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let (decay, moments) = (decay as f32, MomentConstants::new(&step));
    for_each_run([parameters, first, second], gradients, |[parameters, first, second], gradients| {
        isa.run(Update::<DECOUPLED> { decay, moments, parameters, gradients, first, second });
    });
}

/// The constants of a step's update.
#[derive(Clone, Copy)]
struct MomentConstants {
    first_rate: f32,
    second_decay: f32,
    second_rate: f32,
    inverse_root: f32,
    eps: f32,
    rate: f32,
}

impl MomentConstants {
    fn new(step: &AdamStep) -> Self {
        let exponent = step.step as f64;
        let first_correction = 1.0 - step.beta1.powf(exponent);
        let second_correction = 1.0 - step.beta2.powf(exponent);
        Self {
            first_rate: (1.0 - step.beta1) as f32,
            second_decay: step.beta2 as f32,
            second_rate: (1.0 - step.beta2) as f32,
            inverse_root: (1.0 / second_correction.sqrt()) as f32,
            eps: step.eps() as f32,
            rate: (step.lr / first_correction) as f32,
        }
    }

    #[inline(always)]
    fn vectors<S: Simd>(self, simd: S) -> MomentVectors<S> {
        MomentVectors {
            first_rate: simd.splat(self.first_rate),
            second_decay: simd.splat(self.second_decay),
            second_rate: simd.splat(self.second_rate),
            inverse_root: simd.splat(self.inverse_root),
            eps: simd.splat(self.eps),
            rate: simd.splat(-self.rate),
        }
    }
}

/// [`MomentConstants`] in every element of a vector.
struct MomentVectors<S: Simd> {
    first_rate: S::V,
    second_decay: S::V,
    second_rate: S::V,
    inverse_root: S::V,
    eps: S::V,
    rate: S::V,
}

impl<S: Simd> MomentVectors<S> {
    /// Updates the moments with a gradient, then the value.
    ///
    /// # Safety
    /// `WIDTH` floats can be read and written at `first` and `second`.
    #[inline(always)]
    unsafe fn step(&self, simd: S, value: S::V, gradient: S::V, first: *mut f32, second: *mut f32) -> S::V {
        // SAFETY: the caller's.
        let (moment, square) = unsafe { (simd.load(first), simd.load(second)) };
        let moment = simd.mul_add(simd.sub(gradient, moment), self.first_rate, moment);
        let square = simd.mul(square, self.second_decay);
        let square = simd.mul_add(simd.mul(gradient, gradient), self.second_rate, square);
        let root = simd.mul_add(simd.sqrt(square), self.inverse_root, self.eps);
        // SAFETY: the caller's.
        unsafe {
            simd.store(first, moment);
            simd.store(second, square);
        }
        simd.mul_add(self.rate, simd.div(moment, root), value)
    }
}

struct Update<'a, const DECOUPLED: bool> {
    decay: f32,
    moments: MomentConstants,
    parameters: &'a mut [f32],
    gradients: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl<const DECOUPLED: bool> Kernel for Update<'_, DECOUPLED> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (decay, moments) = (simd.splat(self.decay), self.moments.vectors(simd));
        for at in (0..self.parameters.len()).step_by(S::WIDTH) {
            // SAFETY: four slices of one length, a multiple of 16.
            unsafe {
                let parameter = self.parameters.as_mut_ptr().add(at);
                let (first, second) = (self.first.as_mut_ptr().add(at), self.second.as_mut_ptr().add(at));
                let (value, gradient) = (simd.load(parameter), simd.load(self.gradients.as_ptr().add(at)));
                let (value, gradient) = if DECOUPLED {
                    (simd.mul(value, decay), gradient)
                } else {
                    (value, simd.mul_add(decay, value, gradient))
                };
                simd.store(parameter, moments.step(simd, value, gradient, first, second));
            }
        }
    }
}
