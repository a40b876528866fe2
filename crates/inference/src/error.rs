use pointwise_kernels::OutOfMemory;
use pointwise_memory::{Available, shown};
use pointwise_network::NetworkError;
use pointwise_weights::WeightsError;

/// Why inference failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferenceError {
    /// The network's description is inconsistent.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The weights do not match the network.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Images of a size other than the network's.
    #[error(
        "{values} values are not a whole number of images of {image} values: give images of shape {shape:?}"
    )]
    Images {
        /// The values given.
        values: usize,
        /// Values of an image.
        image: usize,
        /// Channels, rows and columns of an image.
        shape: [usize; 3],
    },
    /// Value tables for a number of channels other than the images'.
    #[error("there are value tables for {tables} channels, but images of {channels}: give one for each")]
    Table {
        /// The tables given.
        tables: usize,
        /// Channels of an image.
        channels: usize,
    },
    /// The model needs more memory than is available.
    #[error("the model takes {} of memory, and {available}: give fewer images at once, or free memory", shown(*need))]
    Room {
        /// Bytes needed.
        need: u64,
        /// The memory available.
        available: Available,
    },
    /// The weights or the images are too large for this machine.
    #[error("the model needs more memory than is available: {0}; give fewer images at once")]
    Memory(#[from] OutOfMemory),
}
