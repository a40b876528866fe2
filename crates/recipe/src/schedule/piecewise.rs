use super::span::Moment;
use crate::RecipeError;
use crate::error::{MAX_NUMBER, listed};
use crate::pair::pairs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Straight lines between points: the learning rate times a factor, which changes within an epoch too (`torch.optim.lr_scheduler.LambdaLR` over
/// `numpy.interp`, taken at every step).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PiecewiseLinear {
    /// `[epoch, factor]`, epochs ascending from 0, factors from 0; before the first and after the last the factor is constant.
    #[serde(deserialize_with = "pairs")]
    #[schemars(length(min = 1), inner(inner(range(min = 0, max = MAX_NUMBER))))]
    pub points: Vec<[f64; 2]>,
}

impl PiecewiseLinear {
    pub(super) fn lr(&self, base: f64, moment: Moment) -> f64 {
        let epoch = moment.step as f64 / moment.steps_per_epoch as f64;
        base * self.factor(epoch)
    }

    fn factor(&self, epoch: f64) -> f64 {
        let behind = self.points.partition_point(|[at, _]| *at <= epoch);
        match (behind.checked_sub(1).map(|i| self.points[i]), self.points.get(behind)) {
            // The fraction of the way is computed first: it stays below 1 however close the points are.
            (Some([x0, y0]), Some([x1, y1])) => y0 + (y1 - y0) * ((epoch - x0) / (x1 - x0)),
            (Some([_, y]), None) => y,
            (None, Some([_, y])) => *y,
            (None, None) => 1.0,
        }
    }

    /// The highest rate.
    pub(super) fn highest(&self, base: f64) -> f64 {
        base * self.points.iter().fold(0.0, |highest, [_, factor]| factor.max(highest))
    }

    pub(super) fn check(&self) -> Result<(), RecipeError> {
        let is_ascending = self.points.windows(2).all(|pair| pair[0][0] < pair[1][0]);
        let are_numbers = self.points.iter().flatten().all(|value| (0.0..=MAX_NUMBER).contains(value));
        RecipeError::unless(
            !self.points.is_empty() && is_ascending && are_numbers,
            "schedule.PiecewiseLinear.points",
            &listed(&self.points),
            "pairs of an epoch, ascending from 0, and a factor from 0, such as [[0, 0.1], [5, 1], [20, 0]]",
        )
    }
}
