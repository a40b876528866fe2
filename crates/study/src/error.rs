//! Why something is not a study, or its runs did not come about.

use std::io;
use std::path::PathBuf;

use crate::text::{perhaps, shown};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something is not a study, or its runs did not come about. Every message is one sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text that is not a study's.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// A file that is not a study's, or that cannot be read.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, in a sentence.
        cause: String,
    },
    /// No study of that name comes with the program.
    #[error(
        "there is no study `{}`{}; there are {}, or give the path of a file that ends in .toml",
        shown(name),
        perhaps(name, known.iter().copied()),
        known.join(", ")
    )]
    Unknown {
        /// The name.
        name: String,
        /// The names that there are.
        known: Vec<&'static str>,
    },
    /// A network was asked for that the study lacks.
    #[error("`{name}` is not a network of the study: choose from {known}")]
    UnknownArm {
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// The folder is that of another study.
    #[error("{} holds the study `{theirs}`, not `{ours}`: choose another --out", path.display())]
    OtherStudy {
        /// The folder.
        path: PathBuf,
        /// The name of the study whose folder it is.
        theirs: String,
        /// The name of the study that was asked for.
        ours: String,
    },
    /// A folder holds a run that is none of those asked for.
    #[error("the run in {} has {name} {theirs}, not {ours} as asked now: choose another --out, or ask for what is there", path.display())]
    OtherRun {
        /// The run folder.
        path: PathBuf,
        /// The key of the configuration.
        name: String,
        /// Its value there.
        theirs: String,
        /// Its value as asked.
        ours: String,
    },
    /// A folder holds a run of another network of the same name.
    #[error("the run in {} is of another network `{name}` than the study's: choose another --out, or another name for the network", path.display())]
    OtherNetwork {
        /// The run folder.
        path: PathBuf,
        /// The name of both.
        name: String,
    },
    /// The folder of a study cannot be made.
    #[error("{} cannot be created ({cause}): choose another --out", path.display())]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// A path has to be written into a TOML file.
    #[error("{} has a name that is not UTF-8, and so cannot stand in a configuration: rename it, or give a link to it", path.display())]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refuses what it takes to train.
    #[error("{what}: {cause}")]
    System {
        /// What cannot be done, in a sentence.
        what: String,
        /// What the operating system said.
        cause: io::Error,
    },
    /// Runs failed: what they said, and what has become of the others.
    #[error("{0}")]
    Failed(String),
    /// Other processes are at work on runs of the study, and all others are finished.
    #[error("{0}")]
    InUse(String),
    /// A run cannot be read, or a file cannot be written.
    #[error(transparent)]
    Run(#[from] pointwise_runs::Error),
    /// A cluster's scheduler is missing, refuses or does not answer; or what it should be asked cannot be.
    #[error("{0}")]
    Scheduler(String),
}
