use pointwise_network::NetworkError;
use std::path::PathBuf;

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// A weights file could not be read.
    #[error("{path} cannot be read: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// A weights file has invalid content.
    #[error("{path} is not a usable weights file: {reason}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// The first error.
        reason: String,
    },
    /// A folder was given instead of a weights file.
    #[error("{path} {reason}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What it is, and what to give instead.
        reason: String,
    },
    /// A state is not this network's.
    #[error("the state is not one of `{network}`: {reason}")]
    Misfit {
        /// The network.
        network: String,
        /// What does not fit.
        reason: String,
    },
    /// The network's description does not fit together.
    #[error(transparent)]
    Network(Box<NetworkError>),
}

impl From<NetworkError> for WeightsError {
    fn from(error: NetworkError) -> Self {
        Self::Network(error.into())
    }
}
