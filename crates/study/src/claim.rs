//! Published conclusions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Metric;

/// A part of the published conclusion, about two arms.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// How the two are compared.
    pub kind: ClaimKind,
    /// The quantity compared.
    pub of: Quantity,
    /// The arm that the claim is about.
    pub network: String,
    /// The arm that it is compared with.
    pub to: String,
    /// What was published: percent or nats of a difference, or the ratio. If not given, it follows from the published figures of the two.
    pub published: Option<f64>,
    /// For two that are claimed to be comparable: how far apart they may be, in the unit of the difference, or as a ratio above 1.
    pub margin: Option<f64>,
    /// Why this margin.
    pub reason: String,
    /// The claim in the study's own words; generated from the rest if empty.
    pub text: String,
}

/// How two arms are compared.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimKind {
    /// The quantity of the first divided by that of the second.
    Ratio,
    /// The quantity of the first minus that of the second.
    Difference,
}

/// The quantity in which two arms are compared.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// Trainable parameters.
    Parameters,
    /// Multiply-accumulates of one forward pass of one image.
    Macs,
    /// See [`Metric::TrainLoss`]; after the last epoch.
    TrainLoss,
    /// See [`Metric::TrainAcc`]; after the last epoch.
    TrainAcc,
    /// See [`Metric::TestLoss`]; after the last epoch.
    TestLoss,
    /// See [`Metric::TestAcc`]; after the last epoch.
    TestAcc,
    /// See [`Metric::TtaTestAcc`].
    TtaTestAcc,
}

impl Quantity {
    /// The metric, if it is measured in runs; `None` for what is counted in a network.
    #[must_use]
    pub fn metric(self) -> Option<Metric> {
        match self {
            Self::Parameters | Self::Macs => None,
            Self::TrainLoss => Some(Metric::TrainLoss),
            Self::TrainAcc => Some(Metric::TrainAcc),
            Self::TestLoss => Some(Metric::TestLoss),
            Self::TestAcc => Some(Metric::TestAcc),
            Self::TtaTestAcc => Some(Metric::TtaTestAcc),
        }
    }
}
