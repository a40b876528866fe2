//! The figures of a network that are compared.

use crate::{
    Metric, PublishedNetwork, Reported,
    number::{decimals, percent},
};

/// Published figures are printed with four decimals, accuracies as fractions.
const ROUNDING: f64 = 0.000_05;

/// One of the four figures of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    TrainLoss,
    TrainAccuracy,
    TestLoss,
    TestAccuracy,
}

impl Measure {
    pub(crate) const ALL: [Self; 4] =
        [Self::TrainLoss, Self::TrainAccuracy, Self::TestLoss, Self::TestAccuracy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TrainLoss => "training loss",
            Self::TrainAccuracy => "training accuracy",
            Self::TestLoss => "test loss",
            Self::TestAccuracy => "test accuracy",
        }
    }

    /// A value of it, with its unit.
    pub(crate) fn show(self, value: f64) -> String {
        FigureId::Epoch(0, self).show(value)
    }
}

/// A figure that every network of a study has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FigureId {
    FinalAccuracy,
    FinalLoss,
    /// Counted from 0.
    Epoch(usize, Measure),
}

impl FigureId {
    pub(crate) fn name(self) -> String {
        match self {
            Self::FinalAccuracy => "final test accuracy".into(),
            Self::FinalLoss => "final test loss".into(),
            Self::Epoch(epoch, measure) => format!("{} of epoch {}", measure.name(), epoch + 1),
        }
    }

    pub(crate) fn is_accuracy(self) -> bool {
        matches!(self, Self::FinalAccuracy | Self::Epoch(_, Measure::TrainAccuracy | Measure::TestAccuracy))
    }

    pub(crate) fn show(self, value: f64) -> String {
        if self.is_accuracy() { percent(value) + " %" } else { decimals(value, 4) }
    }

    pub(crate) fn show_difference(self, value: f64) -> String {
        if self.is_accuracy() { decimals(100.0 * value, 1) + " points" } else { decimals(value, 4) }
    }

    /// As published; fractions and nats.
    pub(crate) fn reported(self, network: &PublishedNetwork) -> Option<Reported> {
        let (value, deviation) = match self {
            Self::FinalAccuracy => {
                (network.final_acc / 100.0, network.final_acc_deviation.map(|points| points / 100.0))
            }
            Self::FinalLoss => (network.final_loss, network.final_loss_deviation),
            Self::Epoch(epoch, measure) => {
                let epoch = network.epochs.get(epoch)?;
                let value = match measure {
                    Measure::TrainLoss => epoch.train_loss,
                    Measure::TrainAccuracy => epoch.train_acc / 100.0,
                    Measure::TestLoss => epoch.test_loss,
                    Measure::TestAccuracy => epoch.test_acc / 100.0,
                };
                (value, None)
            }
        };
        Some(Reported { value, rounding: ROUNDING, runs: network.runs, deviation })
    }
}

impl From<Metric> for FigureId {
    fn from(metric: Metric) -> Self {
        match metric {
            Metric::FinalAcc => Self::FinalAccuracy,
            Metric::FinalLoss => Self::FinalLoss,
        }
    }
}
