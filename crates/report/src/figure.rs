//! The figures of a network that are compared.

use pointwise_study::{Arm, Metric, PublishedFigure};

use crate::{
    Reported,
    number::{decimals, percent, points},
};

/// The name of a metric in texts.
pub(crate) fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::TrainLoss => "training loss",
        Metric::TrainAcc => "training accuracy",
        Metric::TestLoss => "test loss",
        Metric::TestAcc => "test accuracy",
        Metric::TtaTestAcc => "test accuracy with test-time augmentation",
    }
}

/// The factor for tables: 100 turns accuracies, which are fractions, into percent.
pub(crate) fn scale(metric: Metric) -> f64 {
    if metric.is_accuracy() { 100.0 } else { 1.0 }
}

/// Decimals of our own figures.
pub(crate) fn places(metric: Metric) -> usize {
    if metric.is_accuracy() { 2 } else { 4 }
}

/// A value of ours with its unit.
pub(crate) fn show(metric: Metric, value: f64) -> String {
    if metric.is_accuracy() { percent(value) + " %" } else { decimals(value, 4) }
}

/// A published value as it was printed, without its unit: `55`, `0.5613`, `≥ 70`.
pub(crate) fn show_published(metric: Metric, value: f64, printed: u32, at_least: bool) -> String {
    let bound = match (at_least, metric.is_accuracy()) {
        (false, _) => "",
        (true, true) => "\u{2265} ",
        (true, false) => "\u{2264} ",
    };
    bound.to_owned() + &decimals(scale(metric) * value, printed as usize)
}

/// A figure that every network of a study has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FigureId {
    pub(crate) metric: Metric,
    /// Counted from 1; `None` after the last one.
    pub(crate) epoch: Option<u32>,
}

impl FigureId {
    /// After the last epoch.
    pub(crate) fn last(metric: Metric) -> Self {
        Self { metric, epoch: None }
    }

    /// The figure of an arm: that of the last of its epochs is its final one.
    pub(crate) fn of(self, arm: &Arm) -> Self {
        Self { epoch: self.epoch.filter(|epoch| *epoch != arm.recipe.epochs), ..self }
    }

    pub(crate) fn name(self) -> String {
        let metric = metric_name(self.metric);
        match self.epoch {
            None => format!("final {metric}"),
            Some(epoch) => format!("{metric} of epoch {epoch}"),
        }
    }

    pub(crate) fn show_difference(self, value: f64) -> String {
        if self.metric.is_accuracy() { points(100.0 * value) } else { decimals(value, 4) }
    }

    /// The published figure of an arm.
    pub(crate) fn published(self, arm: &Arm) -> Option<&PublishedFigure> {
        let epochs = Some(arm.recipe.epochs);
        let same = match self.epoch {
            None => epochs,
            epoch if epoch == epochs => None,
            _ => return arm.published.figure(self.metric, self.epoch),
        };
        arm.published.figure(self.metric, self.epoch).or_else(|| arm.published.figure(self.metric, same))
    }
}

/// In the unit of our figures, fractions and nats.
pub(crate) fn reported(figure: &PublishedFigure) -> Reported {
    let scale = scale(figure.metric);
    Reported {
        value: figure.value / scale,
        unit: 0.1_f64.powi(figure.decimals as i32) / scale,
        runs: figure.runs,
        deviation: figure.deviation.map(|deviation| deviation / scale),
    }
}
