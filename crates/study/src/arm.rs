//! The arms that a study compares.

use pointwise_network::Network;
use pointwise_recipe::Recipe;

use crate::Published;

/// A network with a recipe, which a study runs once for each seed and compares with others.
///
/// Its name is that of the network in its runs ([`RunConfig::model`](pointwise_runs::RunConfig::model)): a network that is trained in
/// several ways has a name for each.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Letters, digits and `-_.+=`; unique in the study.
    pub name: String,
    /// The network, under this name, with the dropout of the arm.
    pub network: Network,
    /// Whether it is a shipped network under its own name. Such a network is adapted to the images; any other must fit them.
    pub is_shipped: bool,
    /// How it is trained.
    pub recipe: Recipe,
    /// What was published about it.
    pub published: Published,
}

impl Arm {
    /// Probability of the first dropout, as in a run's configuration; `None` without dropout.
    #[must_use]
    pub fn dropout(&self) -> Option<f64> {
        self.network.dropout()
    }
}
