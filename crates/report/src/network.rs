//! The results of a network's runs, next to the published ones.

use pointwise_runs::RunResult;
use pointwise_study::Metric;
use serde::{Deserialize, Serialize};

use crate::{
    Bound, Comparison, Sample,
    figure::{FigureId, show_published},
    statistics::LEVEL,
};

/// The conclusion of a study. A reason is part of a sentence.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Verdict {
    /// Counts are equal, no primary figure differs, what was claimed to be reached is reached, the published curves could be ours,
    /// and a difference that matters would have been noticed.
    Reproduced,
    /// A count is not equal, a primary figure differs or falls short after correction for their number, or the published curves are
    /// not ours.
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
        /// What is missing or different.
        reason: String,
    },
    /// Nothing was published: the networks are shown side by side.
    NotJudged,
}

/// What our runs say of a claim.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds: equal counts; a difference or ratio whose interval lies on the published side; figures closer than the margin.
    Holds,
    /// It does not: other counts; an interval on the other side; figures farther apart than the margin.
    Fails,
    /// Our runs cannot tell.
    Undecided,
    /// There is nothing to judge it by.
    NotJudged,
}

impl Bound {
    /// What our runs say of the claim.
    pub fn outcome(&self) -> Outcome {
        if self.corrected < LEVEL {
            Outcome::Fails
        } else if self.reached < LEVEL {
            Outcome::Holds
        } else {
            Outcome::Undecided
        }
    }
}

/// A network's part of a study.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct NetworkReport {
    /// Its name.
    pub name: String,
    /// Trainable parameters of ours, where the trainer knows the network.
    pub parameters: Option<u64>,
    /// Trainable parameters as published, where they were.
    pub published_parameters: Option<u64>,
    /// Multiply-accumulate operations of one forward pass of one image.
    pub macs: Option<u64>,
    /// The seeds of the complete runs, ascending. The samples below have one value for each.
    pub seeds: Vec<u64>,
    /// Test accuracy after the last epoch.
    pub accuracy: Option<Figure>,
    /// Test loss after the last epoch.
    pub loss: Option<Figure>,
    /// Test accuracy after the last epoch with test-time augmentation, where all runs have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tta_accuracy: Option<Figure>,
    /// Training accuracy of the last epoch.
    #[serde(default)]
    pub train_accuracy: Option<Figure>,
    /// Training loss of the last epoch.
    #[serde(default)]
    pub train_loss: Option<Figure>,
    /// Test accuracy of the best epoch minus that of the last.
    pub selection_gap: Option<Sample>,
    /// Mean seconds of an epoch, training and evaluation.
    pub seconds_per_epoch: Option<f64>,
    /// From the first epoch on.
    pub epochs: Vec<EpochReport>,
}

/// Our figure next to the published one. Accuracies are fractions, losses nats.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Figure {
    /// Ours.
    pub ours: Sample,
    /// The published one, where there is one.
    pub published: Option<f64>,
    /// Decimals of the published one, as it was printed in percent or nats.
    #[serde(default)]
    pub decimals: u32,
    /// Whether it was claimed that the result is the published one or better.
    #[serde(default, skip_serializing_if = "is_false")]
    pub at_least: bool,
    /// The judgement of a published result; `None` if the runs are not of the published experiment, or if nothing was published.
    pub comparison: Option<Comparison>,
    /// The judgement of a claim that the result is the published one or better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl Figure {
    /// Whether the verdict rests on it.
    pub(crate) fn decides(&self) -> bool {
        self.bound.is_some() || self.comparison.as_ref().is_some_and(|it| it.corrected.is_some())
    }

    /// What the judgement rests on: the 95 % interval of a published result, or the 90 % interval of our mean, whose ends are the
    /// one-sided 95 % bounds that a claim is compared with.
    pub(crate) fn interval(&self) -> Option<(f64, f64)> {
        let of_result = self.comparison.as_ref().map(|it| (it.low, it.high));
        of_result.or(self.bound.as_ref().map(|it| (it.low, it.high)))
    }

    /// The p value after Holm's correction; `None` if the figure does not decide.
    pub(crate) fn corrected(&self) -> Option<f64> {
        match (&self.comparison, &self.bound) {
            (Some(comparison), _) => comparison.corrected,
            (None, bound) => bound.as_ref().map(|it| it.corrected),
        }
    }

    /// Whether the published one is possible: inside of the interval, or reached, or not refuted.
    pub(crate) fn is_possible(&self) -> bool {
        self.comparison.as_ref().is_none_or(Comparison::within)
            && self.bound.as_ref().is_none_or(|bound| bound.outcome() != Outcome::Fails)
    }

    /// The published one as it was printed.
    pub(crate) fn show_published(&self, metric: Metric) -> Option<String> {
        Some(show_published(metric, self.published?, self.decimals, self.at_least))
    }
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
    pub(crate) fn figure(&self, metric: Metric) -> Option<&Figure> {
        match metric {
            Metric::TrainLoss => self.train_loss.as_ref(),
            Metric::TrainAcc => self.train_acc.as_ref(),
            Metric::TestLoss => self.test_loss.as_ref(),
            Metric::TestAcc => self.test_acc.as_ref(),
            Metric::TtaTestAcc => None,
        }
    }

    fn figure_mut(&mut self, metric: Metric) -> Option<&mut Figure> {
        match metric {
            Metric::TrainLoss => self.train_loss.as_mut(),
            Metric::TrainAcc => self.train_acc.as_mut(),
            Metric::TestLoss => self.test_loss.as_mut(),
            Metric::TestAcc => self.test_acc.as_mut(),
            Metric::TtaTestAcc => None,
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
    /// The number format of convolutions and linear layers.
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

    /// A figure of this network, where its runs have it.
    pub(crate) fn figure(&self, id: FigureId) -> Option<&Figure> {
        match (id.epoch, id.metric) {
            (Some(epoch), metric) => self.epochs.get((epoch as usize).checked_sub(1)?)?.figure(metric),
            (None, Metric::TrainLoss) => self.train_loss.as_ref(),
            (None, Metric::TrainAcc) => self.train_accuracy.as_ref(),
            (None, Metric::TestLoss) => self.loss.as_ref(),
            (None, Metric::TestAcc) => self.accuracy.as_ref(),
            (None, Metric::TtaTestAcc) => self.tta_accuracy.as_ref(),
        }
    }

    pub(crate) fn figure_mut(&mut self, id: FigureId) -> Option<&mut Figure> {
        match (id.epoch, id.metric) {
            (Some(epoch), metric) => {
                self.epochs.get_mut((epoch as usize).checked_sub(1)?)?.figure_mut(metric)
            }
            (None, Metric::TrainLoss) => self.train_loss.as_mut(),
            (None, Metric::TrainAcc) => self.train_accuracy.as_mut(),
            (None, Metric::TestLoss) => self.loss.as_mut(),
            (None, Metric::TestAcc) => self.accuracy.as_mut(),
            (None, Metric::TtaTestAcc) => self.tta_accuracy.as_mut(),
        }
    }
}
