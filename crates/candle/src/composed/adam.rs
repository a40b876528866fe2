use candle_core::{Result, Tensor, Var};
use pointwise_kernels::AdamStep;

/// A step of Adam with the L2 penalty in the gradient: updates a parameter and its moments in place.
///
/// The operations and their order are PyTorch's (`torch/optim/adam.py`, `_single_tensor_adam`).
///
/// # Errors
/// When shapes differ or the device fails.
pub fn adam(step: &AdamStep, parameter: &Var, gradient: &Tensor, first: &Var, second: &Var) -> Result<()> {
    let value = parameter.as_detached_tensor();
    let gradient = super::penalty::with_decay(gradient, &value, step.weight_decay)?;
    let movement = movement(step, &gradient, first, second)?;
    parameter.set(&(value - movement)?)
}

/// How far a step goes down, once both moments include the gradient.
pub(super) fn movement(step: &AdamStep, gradient: &Tensor, first: &Var, second: &Var) -> Result<Tensor> {
    let moment = first.as_detached_tensor();
    let moment = (&moment + ((gradient - &moment)? * (1.0 - step.beta1))?)?;
    let square = ((second.as_detached_tensor() * step.beta2)? + (gradient.sqr()? * (1.0 - step.beta2))?)?;
    first.set(&moment)?;
    second.set(&square)?;
    let exponent = step.step as f64;
    let first_correction = 1.0 - step.beta1.powf(exponent);
    let second_correction = 1.0 - step.beta2.powf(exponent);
    let denominator = ((square.sqrt()? / second_correction.sqrt())? + step.eps())?;
    (&moment / denominator)? * (step.lr / first_correction)
}
