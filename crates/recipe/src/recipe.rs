//! The recipe as a whole.

use crate::error::MAX_NUMBER;
use crate::group::{Group, ParameterGroup};
use crate::optimizer::Optimizer;
use crate::schedule::{Rate, Schedule, Span, Warmup};
use crate::{Augment, Lookahead, Normalise, RecipeError, TestTimeAugmentation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a network is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Recipe {
    /// Passes over the training images, from 1.
    #[schemars(range(min = 1, max = Recipe::MAX_EPOCHS))]
    pub epochs: u32,
    /// The share of the last epoch's batches that are trained on, above 0 and at most 1; steps are rounded up. All if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub last_epoch: Option<f64>,
    /// Images in a batch, from 1; the last batch of an epoch may be smaller.
    #[schemars(range(min = 1, max = Recipe::MAX_BATCH_SIZE))]
    pub batch_size: u32,
    /// Whether an epoch leaves out its last batch if it is smaller (`torch.utils.data.DataLoader`).
    #[serde(default)]
    pub drop_last: bool,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The learning rate from step to step.
    #[serde(default)]
    pub schedule: Schedule,
    /// The warm-up before the schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
    /// Groups of parameters with their own values; the first that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameter_groups: Vec<ParameterGroup>,
    /// The share of a label that is spread evenly over all classes, in `[0, 1)`, in training (`torch.nn.CrossEntropyLoss`).
    #[serde(default)]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub label_smoothing: f64,
    /// The largest norm of all gradients together; larger ones are scaled down to it (`torch.nn.utils.clip_grad_norm_`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = MAX_NUMBER))]
    pub clip_norm: Option<f64>,
    /// A moving average of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<Ema>,
    /// Slow weights, to which the trained ones return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookahead: Option<Lookahead>,
    /// When to stop before the last epoch; needs held-out images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// Augmentation of training images.
    #[serde(default)]
    pub augment: Augment,
    /// Whether the training order changes every epoch.
    #[serde(default = "yes")]
    pub shuffle: bool,
    /// Normalisation of pixel values.
    #[serde(default)]
    pub normalise: Normalise,
    /// The views of a test image on which the final weights are also tested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_time_augmentation: Option<TestTimeAugmentation>,
}

fn yes() -> bool {
    true
}

/// An exponential moving average of weights and BatchNorm's statistics, in addition to the raw ones (`torch.optim.swa_utils.AveragedModel` with
/// `get_ema_multi_avg_fn` and `use_buffers`).
///
/// After the first step it equals the trained values, after each later one `decay * average + (1 - decay) * trained`. BatchNorm's count of
/// batches, which nothing reads, has no average; PyTorch's is rounded down at each step, and so means nothing in particular.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ema {
    /// The share of the average that stays at each step, in `[0, 1)`.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub decay: f64,
}

impl Default for Ema {
    /// PyTorch's: 0.999.
    fn default() -> Self {
        Self { decay: 0.999 }
    }
}

/// Stops a training that no longer improves on held-out images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// It stops after this many epochs in a row without a better accuracy, from 1.
    #[schemars(range(min = 1, max = Recipe::MAX_EPOCHS))]
    pub patience: u32,
}

impl Recipe {
    /// The most passes over the training images.
    pub const MAX_EPOCHS: u32 = 1_000_000;
    /// The most images in a batch.
    pub const MAX_BATCH_SIZE: u32 = 65_536;

    /// The recipe of a file with these three keys alone: the optimizer at its own constant learning rate, on shuffled images without augmentation.
    #[must_use]
    pub fn new(epochs: u32, batch_size: u32, optimizer: impl Into<Optimizer>) -> Self {
        Self {
            epochs,
            last_epoch: None,
            batch_size,
            drop_last: false,
            optimizer: optimizer.into(),
            schedule: Schedule::default(),
            warmup: None,
            parameter_groups: Vec::new(),
            label_smoothing: 0.0,
            clip_norm: None,
            ema: None,
            lookahead: None,
            early_stopping: None,
            augment: Augment::default(),
            shuffle: yes(),
            normalise: Normalise::default(),
            test_time_augmentation: None,
        }
    }

    /// The JSON Schema of a recipe's file, for editors.
    #[must_use]
    pub fn json_schema() -> serde_json::Value {
        schemars::schema_for!(Recipe).to_value()
    }

    /// Checks that every value is in its range.
    ///
    /// # Errors
    /// [`RecipeError`] naming the first key that is out of range.
    pub fn check(&self) -> Result<(), RecipeError> {
        let range = |key: &str, value: u32, most: u32| {
            let wanted = format!("a whole number from 1 to {most}");
            RecipeError::unless((1..=most).contains(&value), key, &value, &wanted)
        };
        range("epochs", self.epochs, Self::MAX_EPOCHS)?;
        if let Some(share) = self.last_epoch {
            let is_share = share > 0.0 && share <= 1.0;
            RecipeError::unless_number(is_share, "last-epoch", share, "a number above 0 and up to 1")?;
        }
        range("batch-size", self.batch_size, Self::MAX_BATCH_SIZE)?;
        self.optimizer.check()?;
        self.schedule.check()?;
        self.warmup.as_ref().map_or(Ok(()), Warmup::check)?;
        for (number, group) in (1..).zip(&self.parameter_groups) {
            group.check(number)?;
        }
        let factors = self.parameter_groups.iter().map(|group| group.lr_factor);
        let highest = self.schedule.highest(self.optimizer.lr()) * factors.fold(1.0, f64::max);
        if highest > MAX_NUMBER {
            return Err(RecipeError::Combination(format!(
                "the learning rate rises to {highest:.1e}; lower it, or the factors in schedule and parameter-groups, to at most {MAX_NUMBER:.1e}"
            )));
        }
        RecipeError::share("label-smoothing", self.label_smoothing)?;
        self.clip_norm.map_or(Ok(()), |norm| RecipeError::positive("clip-norm", norm))?;
        self.ema.map_or(Ok(()), |ema| RecipeError::share("ema.decay", ema.decay))?;
        if let Some(lookahead) = self.lookahead {
            lookahead.check()?;
            if self.ema.is_some() {
                let text = "ema and lookahead each average the weights; leave one of them out";
                return Err(RecipeError::Combination(text.to_owned()));
            }
        }
        if self.clip_norm.is_some() && self.parameter_groups.iter().any(|group| group.frozen_after.is_some())
        {
            let text = "clip-norm counts the gradients of all parameters, including those of a frozen group; \
                        leave out clip-norm, or frozen_after in parameter-groups";
            return Err(RecipeError::Combination(text.to_owned()));
        }
        if let Some(EarlyStopping { patience }) = self.early_stopping {
            range("early-stopping.patience", patience, Self::MAX_EPOCHS)?;
        }
        self.augment.check()?;
        self.normalise.check()?;
        self.test_time_augmentation.as_ref().map_or(Ok(()), TestTimeAugmentation::check)
    }

    /// Batches in an epoch of this many training images; with `drop-last`, 0 if they do not fill one.
    #[must_use]
    pub fn steps_per_epoch(&self, images: usize) -> u64 {
        let (images, batch) = (images as u64, u64::from(self.batch_size.max(1)));
        if self.drop_last { images / batch } else { images.div_ceil(batch) }
    }

    /// The length of a training on this many images.
    #[must_use]
    pub fn span(&self, images: usize) -> Span {
        let steps_per_epoch = self.steps_per_epoch(images);
        let whole = Span::of_epochs(steps_per_epoch, self.epochs);
        let Some(share) = self.last_epoch else { return whole };
        let before = Span::of_epochs(steps_per_epoch, self.epochs.saturating_sub(1)).steps;
        let last = (share * steps_per_epoch as f64).ceil() as u64;
        Span { steps: before.saturating_add(last).min(whole.steps), ..whole }
    }

    /// Whether the steps would differ in a longer training, so that a run cannot be extended.
    #[must_use]
    pub fn depends_on_length(&self) -> bool {
        self.schedule.depends_on_length() || self.last_epoch.is_some() || self.lookahead.is_some()
    }

    /// Whether an engine keeps averages of the weights, for `ema` or `lookahead`.
    #[must_use]
    pub fn averages(&self) -> bool {
        self.ema.is_some() || self.lookahead.is_some()
    }

    /// The learning rate and momentum of step `step`, from 0, in a training of this span.
    #[must_use]
    pub fn rate(&self, step: u64, span: Span) -> Rate {
        self.schedule.rate(self.optimizer.lr(), self.warmup.as_ref(), step, span)
    }

    /// The group of a parameter with this name and number of dimensions.
    #[must_use]
    pub fn group(&self, name: &str, dims: usize) -> Group {
        let found = self.parameter_groups.iter().find(|group| group.matches(name, dims));
        let own = self.optimizer.weight_decay();
        match found {
            Some(group) => {
                let weight_decay = group.weight_decay.unwrap_or(own);
                Group { lr_factor: group.lr_factor, weight_decay, frozen_after: group.frozen_after }
            }
            None => Group { lr_factor: 1.0, weight_decay: own, frozen_after: None },
        }
    }

    /// Refuses groups to which none of these parameters (name, number of dimensions) belongs: probably a mistyped pattern.
    ///
    /// # Errors
    /// [`RecipeError::Combination`] naming the first such group.
    pub fn check_groups<'a>(
        &self,
        parameters: impl Iterator<Item = (&'a str, usize)> + Clone,
    ) -> Result<(), RecipeError> {
        let mut is_empty = vec![true; self.parameter_groups.len()];
        for (name, dims) in parameters {
            if let Some(first) = self.parameter_groups.iter().position(|group| group.matches(name, dims)) {
                is_empty[first] = false;
            }
        }
        match is_empty.iter().position(|is_empty| *is_empty) {
            None => Ok(()),
            Some(first) => Err(RecipeError::Combination(format!(
                "no parameter of the network belongs to parameter group {}; check its names and max_dims, and the groups before it",
                first + 1
            ))),
        }
    }
}
