use super::span::{Moment, Unit};
use crate::RecipeError;
use crate::error::{MAX_NUMBER, MAX_STEPS};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// Half a cosine from the learning rate down to `eta_min` (Loshchilov and Hutter 2017, without restarts;
/// `torch.optim.lr_scheduler.CosineAnnealingLR`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CosineAnnealingLr {
    /// Epochs or steps until `eta_min`, from 1; the rest of the training if not given. Beyond it the rate rises again, as in PyTorch.
    #[serde(rename = "T_max", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_STEPS))]
    pub t_max: Option<u64>,
    /// The lowest rate, from 0.
    #[schemars(range(min = 0, max = MAX_NUMBER))]
    pub eta_min: f64,
    /// What is counted; epochs if not given.
    pub by: Unit,
}

impl CosineAnnealingLr {
    pub(super) fn lr(&self, base: f64, moment: Moment) -> f64 {
        let whole = self.t_max.unwrap_or_else(|| moment.total(self.by)).max(1);
        let part = moment.count(self.by) as f64 / whole as f64;
        self.eta_min + (base - self.eta_min) * (1.0 + (PI * part).cos()) / 2.0
    }

    /// The highest rate.
    pub(super) fn highest(&self, base: f64) -> f64 {
        base.max(self.eta_min)
    }

    pub(super) fn check(&self) -> Result<(), RecipeError> {
        if let Some(t_max) = self.t_max {
            RecipeError::count("schedule.CosineAnnealingLR.T_max", t_max)?;
        }
        RecipeError::not_negative("schedule.CosineAnnealingLR.eta_min", self.eta_min)
    }
}
