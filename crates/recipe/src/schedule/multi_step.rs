use super::span::{Moment, Unit};
use crate::RecipeError;
use crate::error::{MAX_NUMBER, MAX_STEPS, listed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The learning rate times `gamma` for each milestone passed (`torch.optim.lr_scheduler.MultiStepLR`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MultiStepLr {
    /// Epochs or steps done, ascending, from 1.
    #[schemars(inner(range(min = 1, max = MAX_STEPS)))]
    pub milestones: Vec<u64>,
    /// The factor, above 0; 0.1 if not given.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = MAX_NUMBER))]
    pub gamma: f64,
    /// What the milestones count; epochs if not given.
    #[serde(default)]
    pub by: Unit,
}

fn tenth() -> f64 {
    0.1
}

impl MultiStepLr {
    pub(super) fn lr(&self, base: f64, moment: Moment) -> f64 {
        let count = moment.count(self.by);
        let behind = self.milestones.iter().filter(|milestone| **milestone <= count).count();
        base * self.gamma.powf(behind as f64)
    }

    /// The highest rate.
    pub(super) fn highest(&self, base: f64) -> f64 {
        base * self.gamma.powf(self.milestones.len() as f64).max(1.0)
    }

    pub(super) fn check(&self) -> Result<(), RecipeError> {
        let key = "schedule.MultiStepLR.milestones";
        let is_good = self.milestones.first() != Some(&0) && self.milestones.is_sorted();
        RecipeError::unless(is_good, key, &listed(&self.milestones), "ascending whole numbers from 1")?;
        self.milestones.last().map_or(Ok(()), |last| RecipeError::count(key, *last))?;
        RecipeError::positive("schedule.MultiStepLR.gamma", self.gamma)
    }
}
