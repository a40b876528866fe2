//! What a study compares.

use pointwise_network::Network;
use pointwise_recipe::Recipe;

use crate::Published;

/// A network with a recipe: what a study runs once for each seed, and compares with others.
///
/// Its name is that of the network in its runs ([`RunConfig::model`](pointwise_runs::RunConfig::model)): a network that is trained in
/// several ways has a name for each.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Of letters, digits and `-_.+=`; no other arm has it.
    pub name: String,
    /// The network, under that name, with the dropout of the arm.
    pub network: Network,
    /// Whether it is a network of the program under its own name. Such a network is made for whatever images it is given; any other has
    /// to fit them.
    pub is_shipped: bool,
    /// How it is trained.
    pub recipe: Recipe,
    /// What was published of it.
    pub published: Published,
}

impl Arm {
    /// Probability of the first dropout, as a run's configuration has it; `None` without dropout.
    #[must_use]
    pub fn dropout(&self) -> Option<f64> {
        self.network.dropout()
    }
}
