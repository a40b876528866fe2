//! From runs to statistics, a verdict and tables: the study beside its published figures.
//!
//! [`Study::new`] takes the runs of a study and what the networks are; [`Study::write`] leaves `study.json` and `report.md`; [`Page`] is
//! the study as one page for a browser, `report.html`.
//!
//! # How the verdict is reached
//! The published study is one run of each network. Ours are n runs of each, which differ in their seed only. If both come from
//! the same process, the published figure lies, in 95 of 100 cases, within `m ± t s sqrt(1 + 1/n)`, where m is our mean, s the
//! standard deviation from seed to seed and t the 97.5 % quantile of Student's distribution with the degrees of freedom of s.
//! With three seeds or more, s is our own. With fewer, it is estimated from the published curve: the scatter of its last six
//! epochs about a straight line (four degrees of freedom), which stands for the scatter of a last epoch from seed to seed; the
//! report says so.
//!
//! The sampling noise of a test set of 10,000 images (about 0.4 points) is *not* a floor under s. It says how far an accuracy
//! would move on other images; but the published figure and ours are measured on the same ones, where luck in their choice is
//! shared and cancels. What differs, the training, is in s. The report names that noise for those who take an accuracy as an
//! estimate for unseen images. Under the width of the interval there is only the rounding of the published figure.
//!
//! **Architecture invariant:** nothing here depends on a tensor library, or on the time of day: the same runs give the same
//! report, byte for byte.

mod compare;
mod html;
mod markdown;
mod number;
mod published;
mod statistics;
mod study;
mod table;

pub use html::Page;
pub use number::{duration, thousands};
pub use published::{Published, PublishedEpoch, PublishedNetwork, Recipe};
pub use statistics::{Comparison, Sample, SpreadSource};
pub use study::{
    Claim, Data, EpochMeans, Figure, LayerFacts, NetworkFacts, NetworkReport, RunSummary, Study, Unit,
    Verdict,
};
pub use table::{Align, Table};

use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why runs do not make a study. Every message is one sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to report on.
    #[error("there are no runs to report on: train at least one network")]
    NoRuns,
    /// A run of a network that the study does not have.
    #[error("{} is a run of `{model}`, which is none of the study's networks: leave it out", path.display())]
    UnknownNetwork {
        /// The run folder.
        path: PathBuf,
        /// Its network.
        model: String,
    },
    /// Two runs of one network with one seed are one observation, not two.
    #[error("{} and {} are runs of the same network and seed: leave one out", first.display(), second.display())]
    SameSeed {
        /// A run folder.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
    },
    /// Two runs saw different images.
    #[error("{} and {} were trained on different data (fingerprints {ours} and {theirs}): report on them separately",
        first.display(), second.display())]
    MixedData {
        /// A run folder.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
        /// The first one's fingerprint.
        ours: String,
        /// The second one's.
        theirs: String,
    },
    /// Two runs differ in more than network and seed.
    #[error("{} and {} are not of one study ({name} is {ours} and {theirs}): report on them separately",
        first.display(), second.display())]
    MixedConfigurations {
        /// A run folder.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
        /// The key in `config.toml`.
        name: &'static str,
        /// The first one's value.
        ours: String,
        /// The second one's.
        theirs: String,
    },
    /// A run's network is not the one that the trainer has under that name.
    #[error("{} was trained with {found} parameters where `{model}` has {expected}: remove that run or train it again elsewhere",
        path.display())]
    OtherNetwork {
        /// The run folder.
        path: PathBuf,
        /// The network's name.
        model: String,
        /// Parameters of the run's network.
        found: u64,
        /// Parameters of the trainer's.
        expected: u64,
    },
    /// The published figures that were built in cannot be read.
    #[error("data/published.json is not valid ({cause}): restore it from the repository")]
    Published {
        /// What the parser said.
        cause: String,
    },
    /// The report could not be written.
    #[error(transparent)]
    Write(#[from] pointwise_runs::Error),
}
