//! What was published about an arm.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{number, text};

/// A metric of a run. Accuracies are in percent here, losses in nats.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Mean loss over an epoch, in training mode during the epoch.
    TrainLoss,
    /// Accuracy over an epoch, in training mode during the epoch.
    TrainAcc,
    /// Loss on the test set.
    TestLoss,
    /// Accuracy on the test set.
    TestAcc,
    /// Accuracy on the test set with the mean over the recipe's views of each image, after the last epoch.
    TtaTestAcc,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::TrainLoss, Self::TrainAcc, Self::TestLoss, Self::TestAcc, Self::TtaTestAcc];
    /// Those that every epoch has.
    pub const OF_EPOCHS: [Self; 4] = [Self::TrainLoss, Self::TrainAcc, Self::TestLoss, Self::TestAcc];

    /// Whether it is an accuracy, not a loss.
    #[must_use]
    pub fn is_accuracy(self) -> bool {
        matches!(self, Self::TrainAcc | Self::TestAcc | Self::TtaTestAcc)
    }

    /// Its name in a file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TrainLoss => "train-loss",
            Self::TrainAcc => "train-acc",
            Self::TestLoss => "test-loss",
            Self::TestAcc => "test-acc",
            Self::TtaTestAcc => "tta-test-acc",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A figure of every arm on which the verdict is based.
#[derive(Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Primary {
    /// Its metric.
    pub metric: Metric,
    /// Of this epoch, from 1; after the last one if not given.
    #[serde(default, deserialize_with = "number::maybe_count")]
    #[schemars(range(min = 1))]
    pub epoch: Option<u32>,
    /// The smallest difference that matters: points of accuracy, or nats of loss. Runs that could not have detected it cannot say
    /// that the study was reproduced.
    #[serde(deserialize_with = "number::positive")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub margin: f64,
    /// Why this margin.
    #[serde(default, deserialize_with = "text::prose")]
    pub reason: String,
}

/// What was published about an arm.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    /// Trainable parameters.
    pub parameters: Option<u64>,
    /// Single figures, and those of the curves; each metric and epoch once.
    pub figures: Vec<PublishedFigure>,
    /// Values of each epoch, from the first on, as they were drawn.
    pub curves: Curves,
}

impl Published {
    /// The figure of a metric: of this epoch, from 1, or after the last one.
    #[must_use]
    pub fn figure(&self, metric: Metric, epoch: Option<u32>) -> Option<&PublishedFigure> {
        self.figures.iter().find(|figure| figure.metric == metric && figure.epoch == epoch)
    }
}

/// A published number.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedFigure {
    /// Of what.
    pub metric: Metric,
    /// Of this epoch, from 1; after the last one if not given.
    pub epoch: Option<u32>,
    /// Percent of accuracy, or nats of loss.
    pub value: f64,
    /// Decimals, as it was printed: the number was rounded there.
    pub decimals: u32,
    /// Runs that it is the mean of.
    pub runs: u32,
    /// Standard deviation between those runs, in the unit of the value, where it was given.
    pub deviation: Option<f64>,
    /// Whether it was claimed that the result is this or better: an accuracy above, a loss below.
    pub at_least: bool,
}

impl PublishedFigure {
    /// The value as it was printed, with as many decimals.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{:.*}", self.decimals as usize, self.value)
    }
}

/// Published values of each epoch, from the first on; empty where none were published.
#[derive(Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Curves {
    /// Nats, in training mode, as the epoch went.
    #[serde(deserialize_with = "number::losses")]
    #[schemars(inner(range(min = 0)))]
    pub train_loss: Vec<f64>,
    /// Percent, in training mode, as the epoch went.
    #[serde(deserialize_with = "number::accuracies")]
    #[schemars(inner(range(min = 0, max = 100)))]
    pub train_acc: Vec<f64>,
    /// Nats, after the epoch.
    #[serde(deserialize_with = "number::losses")]
    #[schemars(inner(range(min = 0)))]
    pub test_loss: Vec<f64>,
    /// Percent, after the epoch.
    #[serde(deserialize_with = "number::accuracies")]
    #[schemars(inner(range(min = 0, max = 100)))]
    pub test_acc: Vec<f64>,
}

impl Curves {
    /// The values of a metric; none of one that epochs do not have.
    #[must_use]
    pub fn of(&self, metric: Metric) -> &[f64] {
        match metric {
            Metric::TrainLoss => &self.train_loss,
            Metric::TrainAcc => &self.train_acc,
            Metric::TestLoss => &self.test_loss,
            Metric::TestAcc => &self.test_acc,
            Metric::TtaTestAcc => &[],
        }
    }
}
