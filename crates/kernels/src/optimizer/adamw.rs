use super::adam::{AdamStep, update};
use crate::simd::Isa;

/// AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), as `torch.optim.AdamW`: shrinks the parameters by
/// `1 - lr * weight_decay`, then moves them as Adam does without a penalty.
///
/// # Panics
/// When the slices differ in length, or the length is not a multiple of 16.
pub fn adamw(
    isa: Isa,
    step: AdamStep,
    parameters: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let shrink = 1.0 - step.lr * step.weight_decay;
    update::<true>(isa, step, shrink, parameters, gradients, first, second);
}
