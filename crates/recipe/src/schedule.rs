//! Learning rates as pure functions of the step, one schedule per file.

mod constant;
mod cosine;
mod multi_step;
mod one_cycle;
mod piecewise;
mod span;
mod warmup;

pub use constant::ConstantLr;
pub use cosine::CosineAnnealingLr;
pub use multi_step::MultiStepLr;
pub use one_cycle::{Anneal, OneCycleLr};
pub use piecewise::PiecewiseLinear;
pub use span::{Rate, Span, Unit};
pub use warmup::Warmup;

use crate::RecipeError;
use crate::named::{Named, named};
use span::Moment;

named! {
    /// A schedule of the learning rate, by the name of its class in `torch.optim.lr_scheduler` where PyTorch has it.
    Schedule, "a schedule":
    Constant(ConstantLr) = "constant",
    MultiStep(MultiStepLr) = "MultiStepLR",
    Cosine(CosineAnnealingLr) = "CosineAnnealingLR",
    OneCycle(OneCycleLr) = "OneCycleLR",
    Piecewise(PiecewiseLinear) = "PiecewiseLinear",
}

impl Schedule {
    /// The class in PyTorch, or our name.
    #[must_use]
    pub fn class(&self) -> &'static str {
        self.name()
    }

    /// The rate of step `step` (from 0) of a training of this span, for an optimizer whose own learning rate is `lr`.
    ///
    /// A warm-up comes first, and the schedule counts from its end, as in `torch.optim.lr_scheduler.SequentialLR`: epochs, too, are counted
    /// since the warm-up. A warm-up multiplies the first rate of the schedule, so that the two meet. In PyTorch it multiplies the optimizer's
    /// rate (with `OneCycleLR` the first one of the cycle), which differs only where `LambdaLR` begins with a factor other than 1.
    ///
    /// PyTorch computes most rates by multiplication from step to step, and this is a closed form: they differ by rounding, by less than 1e-12
    /// of a rate.
    #[must_use]
    pub fn rate(&self, lr: f64, warmup: Option<&Warmup>, step: u64, span: Span) -> Rate {
        let warm = warmup.map_or(0, |warmup| warmup.steps_of(span));
        let moment = |step| Moment {
            step,
            steps: span.steps.saturating_sub(warm).max(1),
            steps_per_epoch: span.steps_per_epoch.max(1),
        };
        let at = |moment| match self {
            Self::Constant(_) => Rate::new(lr),
            Self::MultiStep(schedule) => Rate::new(schedule.lr(lr, moment)),
            Self::Cosine(schedule) => Rate::new(schedule.lr(lr, moment)),
            Self::OneCycle(schedule) => schedule.rate(lr, moment),
            Self::Piecewise(schedule) => Rate::new(schedule.lr(lr, moment)),
        };
        let rate = match warmup {
            Some(warmup) if step < warm => {
                let first = at(moment(0));
                Rate { lr: first.lr * warmup.factor(step, warm), ..first }
            }
            _ => at(moment(step - warm)),
        };
        let epoch = step / span.steps_per_epoch.max(1);
        Rate { epoch: u32::try_from(epoch).unwrap_or(u32::MAX), ..rate }
    }

    /// Whether the rate of a step depends on the length of the training.
    #[must_use]
    pub fn depends_on_length(&self) -> bool {
        match self {
            Self::Constant(_) | Self::MultiStep(_) | Self::Piecewise(_) => false,
            Self::Cosine(schedule) => schedule.t_max.is_none(),
            Self::OneCycle(schedule) => schedule.total_steps.is_none(),
        }
    }

    /// The highest rate of any step, for an optimizer whose own learning rate is `lr`.
    pub(crate) fn highest(&self, lr: f64) -> f64 {
        match self {
            Self::Constant(_) => lr,
            Self::MultiStep(schedule) => schedule.highest(lr),
            Self::Cosine(schedule) => schedule.highest(lr),
            Self::OneCycle(schedule) => schedule.highest(lr),
            Self::Piecewise(schedule) => schedule.highest(lr),
        }
    }

    /// Checks that the arguments are in their ranges.
    pub(crate) fn check(&self) -> Result<(), RecipeError> {
        match self {
            Self::Constant(_) => Ok(()),
            Self::MultiStep(schedule) => schedule.check(),
            Self::Cosine(schedule) => schedule.check(),
            Self::OneCycle(schedule) => schedule.check(),
            Self::Piecewise(schedule) => schedule.check(),
        }
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Constant(ConstantLr {})
    }
}
