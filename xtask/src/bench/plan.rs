//! The options of a measurement, resolved.

use std::path::PathBuf;

use pointwise_recipe::Adam;

use super::question::{Contender, Device, Phase, Precision, Rates};

/// The options of a measurement, resolved.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) device: Device,
    pub(super) threads: u32,
    pub(super) rounds: u32,
    pub(super) steps: u32,
    pub(super) batch: u32,
    /// The device that takes the steps.
    pub(super) adam: Adam,
    /// As the trainer knows them.
    pub(super) models: Vec<String>,
    pub(super) phases: Vec<Phase>,
    /// Empty on the CPU, where there is no choice.
    pub(super) precisions: Vec<Precision>,
    pub(super) contenders: Vec<Contender>,
    /// Whether the contenders were named.
    pub(super) by_name: bool,
    /// Rates of a GPU that are given instead of measured.
    pub(super) rates: Rates,
    pub(super) engine: String,
    pub(super) study: StudyPlan,
}

/// A whole study, and how often one is timed in each precision.
#[derive(Clone, Debug)]
pub(super) struct StudyPlan {
    pub(super) times: u32,
    /// Passes over the training images, each followed by an evaluation.
    pub(super) epochs: u32,
    /// CIFAR-10; without it every program generates its own images.
    pub(super) data_dir: Option<PathBuf>,
}

/// The order of a round: each round begins one contender further on, so that none always runs first, or always on a machine that the slowest has
/// warmed up.
pub(super) fn order(contenders: usize, round: u32) -> impl Iterator<Item = usize> {
    (0..contenders).map(move |place| (place + round as usize - 1) % contenders)
}
