//! The optimizers, one per file.

mod adam;
mod adamw;
mod sgd;

pub use adam::Adam;
pub use adamw::AdamW;
pub use sgd::Sgd;

use crate::RecipeError;
use crate::named::{Named, named};

named! {
    /// An optimizer, by the name of its class in `torch.optim`.
    Optimizer, "an optimizer":
    Adam(Adam) = "Adam",
    AdamW(AdamW) = "AdamW",
    Sgd(Sgd) = "SGD",
}

impl Optimizer {
    /// The name of the class in PyTorch.
    #[must_use]
    pub fn class(&self) -> &'static str {
        self.name()
    }

    /// The learning rate that a schedule starts from.
    #[must_use]
    pub fn lr(&self) -> f64 {
        match self {
            Self::Adam(Adam { lr, .. }) | Self::AdamW(AdamW { lr, .. }) | Self::Sgd(Sgd { lr, .. }) => *lr,
        }
    }

    /// The weight decay of parameters whose group has none of its own.
    #[must_use]
    pub fn weight_decay(&self) -> f64 {
        match self {
            Self::Adam(Adam { weight_decay, .. })
            | Self::AdamW(AdamW { weight_decay, .. })
            | Self::Sgd(Sgd { weight_decay, .. }) => *weight_decay,
        }
    }

    /// With this learning rate.
    #[must_use]
    pub fn with_lr(mut self, value: f64) -> Self {
        match &mut self {
            Self::Adam(Adam { lr, .. }) | Self::AdamW(AdamW { lr, .. }) | Self::Sgd(Sgd { lr, .. }) => {
                *lr = value;
            }
        }
        self
    }

    /// With this weight decay.
    #[must_use]
    pub fn with_weight_decay(mut self, value: f64) -> Self {
        match &mut self {
            Self::Adam(Adam { weight_decay, .. })
            | Self::AdamW(AdamW { weight_decay, .. })
            | Self::Sgd(Sgd { weight_decay, .. }) => *weight_decay = value,
        }
        self
    }

    /// The names, in PyTorch's `state_dict`, of the buffers that it keeps for each parameter: arrays of the parameter's shape, zeros at first.
    #[must_use]
    pub fn buffers(&self) -> &'static [&'static str] {
        match self {
            Self::Adam(_) | Self::AdamW(_) => &["exp_avg", "exp_avg_sq"],
            // Whether momentum is zero may change from step to step.
            Self::Sgd(_) => &["momentum_buffer"],
        }
    }

    /// Checks that the constants are in their ranges.
    pub(crate) fn check(&self) -> Result<(), RecipeError> {
        let key = |name: &str| format!("optimizer.{}.{name}", self.class());
        RecipeError::positive(&key("lr"), self.lr())?;
        RecipeError::not_negative(&key("weight_decay"), self.weight_decay())?;
        match self {
            Self::Adam(Adam { betas, eps, .. }) | Self::AdamW(AdamW { betas, eps, .. }) => {
                for beta in betas {
                    RecipeError::share(&key("betas"), *beta)?;
                }
                RecipeError::not_negative(&key("eps"), *eps)
            }
            Self::Sgd(Sgd { momentum, nesterov, .. }) => {
                RecipeError::share(&key("momentum"), *momentum)?;
                if *nesterov && *momentum == 0.0 {
                    let text = "optimizer.SGD.nesterov needs a momentum; give one, such as momentum = 0.9";
                    return Err(RecipeError::Combination(text.to_owned()));
                }
                Ok(())
            }
        }
    }
}
