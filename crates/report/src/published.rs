use pointwise_recipe::Recipe;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The published study: `data/published.json`, built in.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Where the figures come from and what they are.
    pub provenance: String,
    /// How the networks were trained: runs with another recipe are not comparable.
    pub recipe: Recipe,
    /// Probability of dropping a unit, in the network that has dropout.
    pub dropout: f64,
    /// Images trained on.
    pub train_images: u32,
    /// Images tested on.
    pub test_images: u32,
    /// The figures that decide whether the study was reproduced; the others are shown beside them.
    pub primary: Vec<Primary>,
    /// What the study concluded.
    pub claims: Vec<PublishedClaim>,
    /// In the study's order.
    pub networks: Vec<PublishedNetwork>,
}

/// A figure of every network that the verdict rests on.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Primary {
    /// Which one.
    pub metric: Metric,
    /// The smallest difference that matters: points of accuracy, or nats of loss. Runs that could not have detected it cannot say
    /// that the study was reproduced.
    pub margin: f64,
    /// Why this margin.
    pub reason: String,
}

/// A figure after the last epoch.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// On the test set.
    FinalAcc,
    /// On the test set.
    FinalLoss,
}

/// A part of the published conclusion, about two networks.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PublishedClaim {
    /// By which share a network has fewer parameters than another one.
    FewerParameters {
        /// The smaller one.
        network: String,
        /// The larger one.
        than: String,
    },
    /// How many times the parameters of another network one has.
    TimesTheParameters {
        /// The larger one.
        network: String,
        /// The smaller one.
        of: String,
    },
    /// By how many points the final test accuracy of a network is above that of another one.
    AccuracyAbove {
        /// The more accurate one.
        network: String,
        /// The less accurate one.
        over: String,
    },
    /// That the final test accuracies of two networks are comparable.
    ComparableAccuracy {
        /// The one that is said to be as good.
        network: String,
        /// The one it is held against.
        to: String,
        /// Points of accuracy; networks that are closer are comparable.
        margin: f64,
        /// Why this margin.
        reason: String,
    },
}

/// A network's published figures.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct PublishedNetwork {
    /// `alexnet_plain`, `alexnet` or `nin`.
    pub name: String,
    /// Trainable parameters.
    pub parameters: u64,
    /// Runs behind the figures.
    #[serde(default = "one")]
    pub runs: u32,
    /// Test accuracy after the last epoch, percent.
    pub final_acc: f64,
    /// Standard deviation of `final_acc` between those runs, percent, where it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_acc_deviation: Option<f64>,
    /// Test loss after the last epoch, nats.
    pub final_loss: f64,
    /// Standard deviation of `final_loss` between those runs, nats, where it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_loss_deviation: Option<f64>,
    /// From the first epoch on.
    pub epochs: Vec<PublishedEpoch>,
}

fn one() -> u32 {
    1
}

/// A published epoch: losses in nats, accuracies in percent.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct PublishedEpoch {
    /// In training mode, as the epoch went.
    pub train_loss: f64,
    /// In training mode, as the epoch went.
    pub train_acc: f64,
    /// After the epoch.
    pub test_loss: f64,
    /// After the epoch.
    pub test_acc: f64,
}

impl Published {
    /// The published figures of a network.
    pub fn network(&self, name: &str) -> Option<&PublishedNetwork> {
        self.networks.iter().find(|network| network.name == name)
    }

    /// Reads the figures that were built in.
    ///
    /// # Errors
    /// [`Error::Published`] if the file was not valid when this was built.
    pub fn load() -> Result<Self> {
        serde_json::from_str(include_str!("../../../data/published.json"))
            .map_err(|error| Error::Published { cause: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_complete_and_agree_with_each_other() {
        let published = Published::load().unwrap();
        let names: Vec<_> = published.networks.iter().map(|network| network.name.as_str()).collect();
        assert_eq!(names, ["alexnet_plain", "alexnet", "nin"]);
        for network in &published.networks {
            assert_eq!(network.epochs.len(), published.recipe.epochs as usize);
            let last = network.epochs[9];
            // The study's last evaluation is of the last epoch's parameters.
            assert_eq!((last.test_acc, last.test_loss), (network.final_acc, network.final_loss));
        }
        for claim in &published.claims {
            let (PublishedClaim::FewerParameters { network, than: other }
            | PublishedClaim::TimesTheParameters { network, of: other }
            | PublishedClaim::AccuracyAbove { network, over: other }
            | PublishedClaim::ComparableAccuracy { network, to: other, .. }) = claim;
            assert!(published.network(network).is_some() && published.network(other).is_some(), "{claim:?}");
        }
        // The margin is what its reason says: half of the distance between the best network and the worst.
        let accuracies = || published.networks.iter().map(|network| network.final_acc);
        let (best, worst) = (accuracies().fold(0.0, f64::max), accuracies().fold(100.0, f64::min));
        assert_eq!(published.primary[0].margin, (10.0 * (best - worst) / 2.0).round() / 10.0);
        // The two ratios of the study's conclusion, from the counts.
        let count = |index: usize| published.networks[index].parameters as f64;
        assert_eq!(format!("{:.1}", 100.0 * (1.0 - count(2) / count(1))), "34.2");
        assert_eq!(format!("{:.2}", count(0) / count(2)), "4.70");
    }
}
