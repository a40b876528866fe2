//! Errors of studies and of their runs.

use std::io;
use std::path::PathBuf;

use crate::text::{perhaps, shown};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something is not a study, or why its runs failed. Every message is one sentence.
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
        "there is no study `{}`{}; give one of {}, or the path of a file that ends in .toml",
        shown(name),
        perhaps(name, known.iter().copied()),
        known.join(", ")
    )]
    Unknown {
        /// The name.
        name: String,
        /// The known names.
        known: Vec<&'static str>,
    },
    /// A requested network is not in the study.
    #[error("`{name}` is not a network of the study: choose from {known}")]
    UnknownArm {
        /// The name.
        name: String,
        /// The known names.
        known: String,
    },
    /// The folder is that of another study.
    #[error("{} holds the study `{theirs}`, not `{ours}`: choose another --out", path.display())]
    OtherStudy {
        /// The folder.
        path: PathBuf,
        /// The name of the study whose folder it is.
        theirs: String,
        /// The name of the requested study.
        ours: String,
    },
    /// A folder holds another run than the one requested.
    #[error("the run in {} has {name} {theirs}, not {ours} as requested: choose another --out, or request what is there", path.display())]
    OtherRun {
        /// The run folder.
        path: PathBuf,
        /// The key of the configuration.
        name: String,
        /// Its value there.
        theirs: String,
        /// Its requested value.
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
    /// The folder of a study cannot be created.
    #[error("{} cannot be created ({cause}): choose another --out", path.display())]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// A path that cannot be written into a TOML file.
    #[error("{} has a name that is not UTF-8, and so cannot be written into a configuration: rename it, or give a link to it", path.display())]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refuses something that training needs.
    #[error("{what}: {cause}")]
    System {
        /// What cannot be done, in a sentence.
        what: String,
        /// What the operating system said.
        cause: io::Error,
    },
    /// Runs failed: their messages, and the state of the others.
    #[error("{0}")]
    Failed(String),
    /// Other processes are at work on runs of the study, and all others are finished.
    #[error("{0}")]
    InUse(String),
    /// A run cannot be read, or a file cannot be written.
    #[error(transparent)]
    Run(#[from] pointwise_runs::Error),
    /// A cluster's scheduler is missing, refuses or does not answer, or the request to it cannot be expressed.
    #[error("{0}")]
    Scheduler(String),
}
