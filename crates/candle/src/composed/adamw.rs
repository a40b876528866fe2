use candle_core::{Result, Tensor, Var};
use pointwise_kernels::AdamStep;

/// A step of Adam with decoupled weight decay: updates a parameter and its moments in place.
///
/// The operations and their order are PyTorch's (`torch/optim/adamw.py`).
///
/// # Errors
/// When shapes differ or the device fails.
pub fn adamw(step: &AdamStep, parameter: &Var, gradient: &Tensor, first: &Var, second: &Var) -> Result<()> {
    let value = (parameter.as_detached_tensor() * (1.0 - step.lr * step.weight_decay))?;
    let movement = super::adam::movement(step, gradient, first, second)?;
    parameter.set(&(value - movement)?)
}
