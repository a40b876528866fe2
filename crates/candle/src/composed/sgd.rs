use candle_core::{Result, Tensor, Var};
use pointwise_kernels::SgdStep;

/// A step of gradient descent with momentum: updates a parameter and its momentum buffer in place.
///
/// The operations and their order are PyTorch's (`torch/optim/sgd.py`, `_single_tensor_sgd`); a step without momentum leaves the buffer unchanged, as
/// PyTorch does.
///
/// # Errors
/// When shapes differ or the device fails.
pub fn sgd(step: &SgdStep, parameter: &Var, gradient: &Tensor, buffer: &Var) -> Result<()> {
    let value = parameter.as_detached_tensor();
    let gradient = super::penalty::with_decay(gradient, &value, step.weight_decay)?;
    let direction = if step.momentum == 0.0 {
        gradient
    } else {
        let momentum = ((buffer.as_detached_tensor() * step.momentum)? + &gradient)?;
        buffer.set(&momentum)?;
        if step.nesterov { (gradient + (momentum * step.momentum)?)? } else { momentum }
    };
    parameter.set(&(value - (direction * step.lr)?)?)
}
