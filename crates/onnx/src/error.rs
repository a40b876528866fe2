use crate::OPSETS;
use pointwise_network::NetworkError;
use pointwise_weights::WeightsError;

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// The description does not fit together.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The weights are not those of the network.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An unsupported version of the operator set.
    #[error("operator set {0} cannot be written; give one from {first} to {last}", first = OPSETS.start(), last = OPSETS.end())]
    Opset(u32),
    /// A normalisation that is invalid or for other images.
    #[error("the normalisation does not fit images of {channels} channels: {reason}")]
    Preprocessing {
        /// Channels of the network's input.
        channels: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// More bytes than a file of the format may have.
    #[error("the model would have {bytes} bytes, and an ONNX file has at most {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}
