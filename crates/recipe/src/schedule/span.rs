//! The length of a training, and the rates of its steps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a schedule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Passes over the training images: the rate changes between two of them, as in most training programs.
    #[default]
    Epoch,
    /// Batches.
    Step,
}

/// How long a training is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Batches in an epoch, from 1.
    pub steps_per_epoch: u64,
    /// Batches in the whole training: the last epoch may have fewer than the others.
    pub steps: u64,
}

impl Span {
    /// Of whole epochs.
    #[must_use]
    pub fn of_epochs(steps_per_epoch: u64, epochs: u32) -> Self {
        Self { steps_per_epoch, steps: steps_per_epoch.saturating_mul(u64::from(epochs)) }
    }
}

/// The learning rate and momentum of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Learning rate; multiplied by a parameter group's own factor.
    pub lr: f64,
    /// In place of SGD's momentum or Adam's first beta, where the schedule changes it too.
    pub momentum: Option<f64>,
    /// Epochs done before it, by which groups are frozen.
    pub epoch: u32,
}

impl Rate {
    /// The optimizer's own values at that learning rate, in the first epoch.
    #[must_use]
    pub fn new(lr: f64) -> Self {
        Self { lr, momentum: None, epoch: 0 }
    }
}

/// A step after the warm-up, for which a schedule computes the rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Steps since the warm-up, from 0.
    pub(super) step: u64,
    /// Steps from the warm-up to the end of the training, at least 1.
    pub(super) steps: u64,
    /// At least 1.
    pub(super) steps_per_epoch: u64,
}

impl Moment {
    /// The step, or its epoch.
    pub(super) fn count(self, unit: Unit) -> u64 {
        match unit {
            Unit::Epoch => self.step / self.steps_per_epoch,
            Unit::Step => self.step,
        }
    }

    /// The number of steps, or of epochs.
    pub(super) fn total(self, unit: Unit) -> u64 {
        match unit {
            Unit::Epoch => self.steps.div_ceil(self.steps_per_epoch),
            Unit::Step => self.steps,
        }
    }
}
