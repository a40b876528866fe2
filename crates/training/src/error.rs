use pointwise_engine::EngineError;
use std::path::PathBuf;

/// Why a training or an evaluation stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainingError {
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The images could not be made into batches.
    #[error(transparent)]
    Data(#[from] pointwise_data::Error),
    /// The run folder could not be read or written.
    #[error(transparent)]
    Run(#[from] pointwise_runs::Error),
    /// The thread that writes the run's files could not be started.
    #[error("no thread can be started that writes the run's files: {cause}")]
    Thread {
        /// The system's reason.
        cause: std::io::Error,
    },
    /// The thread that writes the run's files has panicked: an error in the program.
    #[error(
        "the thread that writes the run's files has panicked ({0}); the run can be resumed from its last checkpoint"
    )]
    Panic(String),
    /// A weights file could not be read.
    #[error("{path} cannot be read: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// A weights file is not what it should be.
    #[error("{path} is not a usable weights file: {reason}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// The first thing that is wrong.
        reason: String,
    },
    /// A folder was given for a weights file.
    #[error("{path} {reason}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What it is, and what to give instead.
        reason: String,
    },
    /// A value of the configuration does not fit the data.
    #[error("{0}")]
    Configuration(String),
}
