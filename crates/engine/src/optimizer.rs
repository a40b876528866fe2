//! An optimizer's step on a parameter: the constants for every engine, and on candle tensors the formulas of `pointwise-candle`.

use candle_core::{Result, Tensor, Var};
use pointwise_candle::composed::{adam, adamw, sgd};
use pointwise_kernels::{AdamStep, SgdStep};
use pointwise_recipe::{Adam, AdamW, Group, Optimizer, Rate, Sgd};

/// The constants of one step for the parameters of one group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// See [`Adam`].
    Adam(AdamStep),
    /// See [`AdamW`].
    AdamW(AdamStep),
    /// See [`Sgd`].
    Sgd(SgdStep),
}

impl Step {
    /// Step `number`, from 1, at a rate.
    #[must_use]
    pub fn new(optimizer: &Optimizer, rate: Rate, group: Group, number: u64) -> Self {
        let lr = group.lr(rate);
        let adam_step = |[beta1, beta2]: [f64; 2], eps: f64| AdamStep {
            lr,
            beta1: rate.momentum.unwrap_or(beta1),
            beta2,
            eps,
            weight_decay: group.weight_decay,
            step: number,
        };
        match optimizer {
            Optimizer::Adam(Adam { betas, eps, .. }) => Self::Adam(adam_step(*betas, *eps)),
            Optimizer::AdamW(AdamW { betas, eps, .. }) => Self::AdamW(adam_step(*betas, *eps)),
            Optimizer::Sgd(Sgd { momentum, nesterov, .. }) => Self::Sgd(SgdStep {
                lr,
                momentum: rate.momentum.unwrap_or(*momentum),
                weight_decay: group.weight_decay,
                nesterov: *nesterov,
            }),
        }
    }

    /// Takes the step on candle tensors, in place; `buffers` are those of [`Optimizer::buffers`] in their order.
    ///
    /// # Errors
    /// When the number of buffers is not the optimizer's, shapes differ or the device fails.
    pub fn update(&self, parameter: &Var, gradient: &Tensor, buffers: &[&Var]) -> Result<()> {
        match (self, buffers) {
            (Self::Adam(step), [first, second]) => adam(step, parameter, gradient, first, second),
            (Self::AdamW(step), [first, second]) => adamw(step, parameter, gradient, first, second),
            (Self::Sgd(step), [buffer]) => sgd(step, parameter, gradient, buffer),
            // Lists every optimizer, so that the compiler reports a new one as missing.
            (Self::Adam(_) | Self::AdamW(_) | Self::Sgd(_), _) => {
                candle_core::bail!("{} buffers are not those of {self:?}", buffers.len())
            }
        }
    }
}

/// The factor that clips all gradients to a joint norm of at most `most` (`torch.nn.utils.clip_grad_norm_`); 1 for a NaN.
pub(crate) fn clip_factor(norm: f64, most: f64) -> f64 {
    (most / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests;
