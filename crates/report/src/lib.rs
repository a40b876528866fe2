//! From runs to statistics, a verdict and tables: the study beside its published figures.
//!
//! [`Study::new`] takes the runs of a study and what the networks are; [`Study::write`] leaves `study.json` and `report.md`; [`Page`] is
//! the study as one page for a browser, `report.html`.
//!
//! # How the verdict is reached
//! The study names its *primary* figures, by default the final test accuracy of each network, and for each the smallest difference
//! that matters, its *margin*. Ours are n runs of each network, which differ in their seed only; the published figure is a mean of
//! m runs, often of one. If all come from one process, the difference of the means over `s sqrt(1/n + 1/m)` has Student's
//! distribution, where s is the standard deviation from seed to seed ([`Comparison`]).
//!
//! * s is that of our own seeds, drawn towards that of the other networks by as much as their spreads are alike
//!   ([`statistics::moderated`]). With fewer than three seeds it is that of the repository's [`Record`] of the same study; the
//!   published curve says nothing about the spread between seeds.
//! * The primary figures are judged together, by Holm's correction: of faithful reproductions at most 5 % are called different.
//! * All other figures (loss; accuracy and loss of each epoch) are shown with their intervals, and one test says whether they could
//!   be ours ([`CurveCheck`]). It has a level of its own, 1 %.
//! * A study is *reproduced* if nothing differs, there are three seeds or more of each network, and a difference as large as the
//!   margin would have been noticed in 8 of 10 cases. Otherwise it is *undecided*: these runs could not have told.
//! * The published conclusion is judged too ([`Claim`]): counts exactly, a difference between networks by Welch's interval,
//!   "comparable" by two one-sided tests against a margin.
//!
//! The sampling noise of a test set of 10,000 images (about 0.4 points) is *not* a floor under s. It says how far an accuracy
//! would move on other images; but the published figure and ours are measured on the same ones, where luck in their choice is
//! shared and cancels. What differs, the training, is in s. The report names that noise for those who take an accuracy as an
//! estimate for unseen images.
//!
//! **Architecture invariant:** nothing here depends on a tensor library, or on the time of day: the same runs give the same
//! report, byte for byte.

mod compare;
mod html;
mod judgement;
mod markdown;
mod number;
mod published;
mod record;
pub mod statistics;
mod study;
mod table;

pub use html::Page;
pub use judgement::{Claim, CurveCheck, Homogeneity, Outcome, Unit};
pub use number::{duration, thousands};
pub use published::{Metric, Primary, Published, PublishedClaim, PublishedEpoch, PublishedNetwork, Recipe};
pub use record::{Record, RecordedEpoch, RecordedFigure, RecordedNetwork};
pub use statistics::{Comparison, Reported, Sample, Spread, SpreadSource};
pub use study::{
    Data, EpochReport, Figure, LayerFacts, NetworkFacts, NetworkReport, RecordSeeds, RunSummary, Study,
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
    /// The record that was built in cannot be read.
    #[error("data/study/study.json is not valid ({cause}): restore it from the repository")]
    Record {
        /// What the parser said.
        cause: String,
    },
    /// The report could not be written.
    #[error(transparent)]
    Write(#[from] pointwise_runs::Error),
}
