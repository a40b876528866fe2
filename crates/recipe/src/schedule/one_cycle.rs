use super::span::{Moment, Rate};
use crate::RecipeError;
use crate::error::{MAX_NUMBER, MAX_STEPS};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// Up to the optimizer's learning rate and down again within the training, with the momentum moving the opposite way (Smith and Topin 2018;
/// `torch.optim.lr_scheduler.OneCycleLR`, whose `max_lr` is the optimizer's `lr` here).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend(
    "if" = { "properties": { "three_phase": { "const": true } }, "required": ["three_phase"] },
    "then" = { "properties": { "pct_start": { "exclusiveMaximum": 0.5 } } },
))]
pub struct OneCycleLr {
    /// Steps of the cycle, from 1; the rest of the training if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_STEPS))]
    pub total_steps: Option<u64>,
    /// The share of the cycle in which the rate rises, above 0 and below 1; below 1/2 with `three_phase`.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub pct_start: f64,
    /// The curve between two rates.
    pub anneal_strategy: Anneal,
    /// Whether the momentum (Adam's first beta) moves between `max_momentum` and `base_momentum`.
    pub cycle_momentum: bool,
    /// The momentum at the highest rate, in `[0, 1)`.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub base_momentum: f64,
    /// The momentum at the first and the last step, in `[0, 1)`.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub max_momentum: f64,
    /// The first rate is the highest one divided by this.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = MAX_NUMBER))]
    pub div_factor: f64,
    /// The last rate is the first one divided by this.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = MAX_NUMBER))]
    pub final_div_factor: f64,
    /// Whether the rate first falls as it rose, and only then goes to the last one.
    pub three_phase: bool,
}

/// A curve between two rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Anneal {
    /// Half a cosine.
    #[default]
    Cos,
    /// A straight line.
    Linear,
}

impl Default for OneCycleLr {
    /// PyTorch's.
    fn default() -> Self {
        Self {
            total_steps: None,
            pct_start: 0.3,
            anneal_strategy: Anneal::Cos,
            cycle_momentum: true,
            base_momentum: 0.85,
            max_momentum: 0.95,
            div_factor: 25.0,
            final_div_factor: 1e4,
            three_phase: false,
        }
    }
}

impl OneCycleLr {
    pub(super) fn rate(&self, base: f64, moment: Moment) -> Rate {
        let total = self.total_steps.unwrap_or(moment.steps) as f64;
        let first = base / self.div_factor;
        let last = first / self.final_div_factor;
        let (low, high) = (self.base_momentum, self.max_momentum);
        // Of each phase: its last step, the rates at both ends, the momenta at both ends.
        let up = (self.pct_start * total - 1.0, [first, base], [high, low]);
        let phases = if self.three_phase {
            let down = (2.0 * self.pct_start * total - 2.0, [base, first], [low, high]);
            vec![up, down, (total - 1.0, [first, last], [high, high])]
        } else {
            vec![up, (total - 1.0, [base, last], [low, high])]
        };
        let step = (moment.step as f64).min(total - 1.0);
        let mut start = 0.0;
        for (i, (end, rates, momenta)) in phases.iter().enumerate() {
            if step <= *end || i + 1 == phases.len() {
                // A phase without steps ends where it begins.
                let part = if *end > start { (step - start) / (end - start) } else { 1.0 };
                let momentum = self.cycle_momentum.then(|| self.anneal_strategy.between(*momenta, part));
                return Rate { momentum, ..Rate::new(self.anneal_strategy.between(*rates, part)) };
            }
            start = *end;
        }
        unreachable!("the last phase covers every step")
    }

    /// The highest rate.
    pub(super) fn highest(&self, base: f64) -> f64 {
        let first = base / self.div_factor;
        base.max(first).max(first / self.final_div_factor)
    }

    pub(super) fn check(&self) -> Result<(), RecipeError> {
        let key = |name: &str| format!("schedule.OneCycleLR.{name}");
        if let Some(steps) = self.total_steps {
            RecipeError::count(&key("total_steps"), steps)?;
        }
        let pct = self.pct_start;
        let (most, wanted) = match self.three_phase {
            true => (0.5, "a number above 0 and below 1/2, as three_phase requires"),
            false => (1.0, "a number above 0 and below 1"),
        };
        RecipeError::unless_number(pct > 0.0 && pct < most, &key("pct_start"), pct, wanted)?;
        RecipeError::share(&key("base_momentum"), self.base_momentum)?;
        RecipeError::share(&key("max_momentum"), self.max_momentum)?;
        RecipeError::positive(&key("div_factor"), self.div_factor)?;
        RecipeError::positive(&key("final_div_factor"), self.final_div_factor)
    }
}

impl Anneal {
    /// The value `part` of the way, in `[0, 1]`.
    fn between(self, [start, end]: [f64; 2], part: f64) -> f64 {
        match self {
            Self::Cos => end + (start - end) / 2.0 * (1.0 + (PI * part).cos()),
            Self::Linear => (end - start) * part + start,
        }
    }
}
