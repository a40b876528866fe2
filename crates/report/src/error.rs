//! Why runs do not make a study.

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
    /// Two runs differ in what they should share.
    #[error("{} and {} are not of one study ({name} is {ours} and {theirs}): report on them separately",
        first.display(), second.display())]
    MixedConfigurations {
        /// A run folder.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
        /// The key in `config.toml`.
        name: String,
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
    /// The record that the study names cannot be read.
    #[error(
        "the record of the study is not the study.json of a reproduction ({cause}): name another one in its file, or none"
    )]
    Record {
        /// What the parser said.
        cause: String,
    },
    /// The report could not be written.
    #[error(transparent)]
    Write(#[from] pointwise_runs::Error),
}
