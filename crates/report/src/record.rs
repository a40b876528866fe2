//! The record of an earlier reproduction, from which one with few seeds takes its spread.

use pointwise_study::Metric;
use serde::Deserialize;

use crate::{Error, Result, Sample, figure::FigureId};

/// What the `study.json` of earlier runs says of them. A file of an older version may say less.
#[derive(Deserialize, Clone, Debug, PartialEq)]
pub struct Record {
    /// The networks with their figures.
    pub networks: Vec<RecordedNetwork>,
    /// As in [`RunConfig::precision`](pointwise_runs::RunConfig::precision), of the runs that count.
    #[serde(default = "single")]
    pub precision: String,
}

/// A network's part of a record.
#[derive(Deserialize, Clone, Debug, PartialEq)]
pub struct RecordedNetwork {
    /// Its name.
    pub name: String,
    /// The seeds of its runs.
    pub seeds: Vec<u64>,
    /// Test accuracy after the last epoch.
    pub accuracy: Option<RecordedFigure>,
    /// Test loss after the last epoch.
    pub loss: Option<RecordedFigure>,
    /// Test accuracy after the last epoch with test-time augmentation.
    #[serde(default)]
    pub tta_accuracy: Option<RecordedFigure>,
    /// Training accuracy of the last epoch.
    #[serde(default)]
    pub train_accuracy: Option<RecordedFigure>,
    /// Training loss of the last epoch.
    #[serde(default)]
    pub train_loss: Option<RecordedFigure>,
    /// From the first epoch on.
    #[serde(default)]
    pub epochs: Vec<RecordedEpoch>,
}

/// An epoch of a network's runs.
#[derive(Deserialize, Clone, Debug, PartialEq)]
pub struct RecordedEpoch {
    /// In training mode, as the epoch went.
    pub train_loss: Option<RecordedFigure>,
    /// In training mode, as the epoch went.
    pub train_acc: Option<RecordedFigure>,
    /// After the epoch.
    pub test_loss: Option<RecordedFigure>,
    /// After the epoch.
    pub test_acc: Option<RecordedFigure>,
}

/// A figure of a network's runs.
#[derive(Deserialize, Clone, Debug, PartialEq)]
pub struct RecordedFigure {
    /// One value a seed.
    pub ours: Sample,
}

fn single() -> String {
    "f32".to_owned()
}

impl RecordedEpoch {
    fn figure(&self, metric: Metric) -> Option<&RecordedFigure> {
        match metric {
            Metric::TrainLoss => self.train_loss.as_ref(),
            Metric::TrainAcc => self.train_acc.as_ref(),
            Metric::TestLoss => self.test_loss.as_ref(),
            Metric::TestAcc => self.test_acc.as_ref(),
            Metric::TtaTestAcc => None,
        }
    }
}

impl RecordedNetwork {
    /// The values of a figure.
    pub(crate) fn sample(&self, figure: FigureId) -> Option<&Sample> {
        let last = || self.epochs.last();
        let found = match (figure.epoch, figure.metric) {
            (Some(epoch), metric) => self.epochs.get((epoch as usize).checked_sub(1)?)?.figure(metric),
            (None, Metric::TestAcc) => self.accuracy.as_ref(),
            (None, Metric::TtaTestAcc) => self.tta_accuracy.as_ref(),
            (None, Metric::TestLoss) => self.loss.as_ref(),
            // Older records have the final training figures in the last epoch alone.
            (None, metric @ Metric::TrainAcc) => {
                self.train_accuracy.as_ref().or_else(|| last()?.figure(metric))
            }
            (None, metric @ Metric::TrainLoss) => self.train_loss.as_ref().or_else(|| last()?.figure(metric)),
        };
        found.map(|figure| &figure.ours)
    }
}

impl Record {
    /// Reads the text of a `study.json`.
    ///
    /// # Errors
    /// [`Error::Record`] if it is not one.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| Error::Record { cause: error.to_string() })
    }
}
