use pointwise_engine::EngineError;
use pointwise_weights::WeightsError;

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
    #[error("the thread that writes the run's files cannot be started: {cause}")]
    Thread {
        /// The system's reason.
        cause: std::io::Error,
    },
    /// The thread that writes the run's files has panicked: a bug in the program.
    #[error(
        "the thread that writes the run's files has panicked ({0}); the run can be resumed from its last checkpoint"
    )]
    Panic(String),
    /// Weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A value of the configuration does not fit the data.
    #[error("{0}")]
    Configuration(String),
}
