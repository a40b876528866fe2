//! The repository's record of the study: what a reproduction with few seeds takes its spread from.

use serde::Deserialize;

use crate::{
    Error, Result, Sample,
    figure::{FigureId, Measure},
};

/// What `data/study/study.json`, built in, says of the runs behind it. A record that an older version wrote may say less.
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
    /// Of its runs.
    pub seeds: Vec<u64>,
    /// Test accuracy after the last epoch.
    pub accuracy: Option<RecordedFigure>,
    /// Test loss after the last epoch.
    pub loss: Option<RecordedFigure>,
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

impl RecordedNetwork {
    /// The values of a figure.
    pub(crate) fn sample(&self, figure: FigureId) -> Option<&Sample> {
        let found = match figure {
            FigureId::FinalAccuracy => &self.accuracy,
            FigureId::FinalLoss => &self.loss,
            FigureId::Epoch(epoch, measure) => {
                let epoch = self.epochs.get(epoch)?;
                match measure {
                    Measure::TrainLoss => &epoch.train_loss,
                    Measure::TrainAccuracy => &epoch.train_acc,
                    Measure::TestLoss => &epoch.test_loss,
                    Measure::TestAccuracy => &epoch.test_acc,
                }
            }
        };
        found.as_ref().map(|figure| &figure.ours)
    }
}

impl Record {
    /// The record that was built in.
    ///
    /// # Errors
    /// [`Error::Record`] if the file was not valid when this was built.
    pub fn load() -> Result<Self> {
        serde_json::from_str(include_str!("../../../data/study/study.json"))
            .map_err(|error| Error::Record { cause: error.to_string() })
    }
}
