//! What runs of a network come to, next to what is published of it.

use pointwise_runs::RunResult;
use serde::{Deserialize, Serialize};

use crate::{Comparison, Sample, figure::Measure};

/// The conclusion of a study. A reason is part of a sentence.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Verdict {
    /// Counts are equal, no primary figure differs, the published curves could be ours, and a difference that matters would have
    /// been noticed.
    Reproduced,
    /// A count is not equal, a primary figure differs after correction for their number, or the published curves are not ours.
    Different {
        /// What differs.
        reason: String,
    },
    /// Nothing differs, but these runs could not have noticed a difference that matters.
    Undecided {
        /// What could have been missed.
        reason: String,
    },
    /// The runs are not of the published experiment, or not all of it.
    NotComparable {
        /// What is missing or other.
        reason: String,
    },
    /// An ablation: a family of networks beside each other, which nobody has published figures of as a whole.
    NotJudged,
}

/// A network's part of a study.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct NetworkReport {
    /// Its name.
    pub name: String,
    /// Trainable parameters of ours, where the trainer knows the network.
    pub parameters: Option<u64>,
    /// Trainable parameters as published, of a network of the study.
    pub published_parameters: Option<u64>,
    /// Multiply-accumulate operations of one forward pass of one image.
    pub macs: Option<u64>,
    /// Of the complete runs, ascending. The samples below have one value for each.
    pub seeds: Vec<u64>,
    /// Test accuracy after the last epoch.
    pub accuracy: Option<Figure>,
    /// Test loss after the last epoch.
    pub loss: Option<Figure>,
    /// Test accuracy of the best epoch minus that of the last.
    pub selection_gap: Option<Sample>,
    /// Mean seconds of an epoch, training and evaluation.
    pub seconds_per_epoch: Option<f64>,
    /// From the first epoch on.
    pub epochs: Vec<EpochReport>,
}

/// A figure of ours beside the published one.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Figure {
    /// Ours.
    pub ours: Sample,
    /// The published one, of a network of the study.
    pub published: Option<f64>,
    /// The judgement; `None` where the runs are not of the published experiment, and in an ablation.
    pub comparison: Option<Comparison>,
}

/// The figures of one epoch; `None` where a run has no such figure: a mean over some of the seeds would not be one over the same
/// runs as its neighbours.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct EpochReport {
    /// Counted from 1.
    pub epoch: u32,
    /// In training mode, as the epoch went.
    pub train_loss: Option<Figure>,
    /// In training mode, as the epoch went.
    pub train_acc: Option<Figure>,
    /// After the epoch.
    pub test_loss: Option<Figure>,
    /// After the epoch.
    pub test_acc: Option<Figure>,
}

impl EpochReport {
    pub(crate) fn figure(&self, measure: Measure) -> Option<&Figure> {
        match measure {
            Measure::TrainLoss => self.train_loss.as_ref(),
            Measure::TrainAccuracy => self.train_acc.as_ref(),
            Measure::TestLoss => self.test_loss.as_ref(),
            Measure::TestAccuracy => self.test_acc.as_ref(),
        }
    }
}

/// One run, as a row of the report.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct RunSummary {
    /// Name of the run folder.
    pub name: String,
    /// Its network.
    pub model: String,
    /// Its seed.
    pub seed: u64,
    /// What computed it.
    pub engine: String,
    /// On which device.
    pub device: String,
    /// The numbers of convolutions and linear layers.
    pub precision: String,
    /// What did the work: the accelerator's name where one did, else the processor's.
    pub processor: String,
    /// Worker threads.
    pub threads: u32,
    /// The commit of the program.
    pub commit: Option<String>,
    /// The outcome; `None` while it is under way.
    pub result: Option<RunResult>,
}

impl NetworkReport {
    /// Whether our count is the published one, where there is one.
    pub fn counts_as_published(&self) -> bool {
        self.published_parameters.is_none_or(|published| self.parameters == Some(published))
    }
}
