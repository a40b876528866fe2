use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The published study: `data/published.json`, built in.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Where the figures come from and what they are.
    pub provenance: String,
    /// How the networks were trained.
    pub recipe: Recipe,
    /// In the study's order.
    pub networks: Vec<PublishedNetwork>,
}

/// How the published networks were trained: a run with another recipe is not comparable.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Passes over the training images.
    pub epochs: u32,
    /// Images in a batch.
    pub batch_size: u32,
    /// Adam's step size.
    pub lr: f64,
    /// Coupled L2 weight decay.
    pub weight_decay: f64,
    /// Probability of dropping a unit, in the network that has dropout.
    pub dropout: f64,
    /// As in [`RunConfig::augment`](pointwise_runs::RunConfig::augment).
    pub augment: String,
    /// Whether the order changes every epoch.
    pub shuffle: bool,
    /// Images trained on.
    pub train_images: u32,
    /// Images tested on.
    pub test_images: u32,
}

/// A network's published figures.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct PublishedNetwork {
    /// `alexnet_plain`, `alexnet` or `nin`.
    pub name: String,
    /// Trainable parameters.
    pub parameters: u64,
    /// Test accuracy after the last epoch, per cent.
    pub final_acc: f64,
    /// Test loss after the last epoch, nats.
    pub final_loss: f64,
    /// From the first epoch on.
    pub epochs: Vec<PublishedEpoch>,
}

/// A published epoch: losses in nats, accuracies in per cent.
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
        // The two ratios of the study's conclusion, from the counts.
        let count = |index: usize| published.networks[index].parameters as f64;
        assert_eq!(format!("{:.1}", 100.0 * (1.0 - count(2) / count(1))), "34.2");
        assert_eq!(format!("{:.2}", count(0) / count(2)), "4.70");
    }
}
