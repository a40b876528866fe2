use pointwise_kernels::OutOfMemory;
use pointwise_memory::{Available, shown};
use pointwise_network::NetworkError;
use pointwise_weights::WeightsError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferenceError {
    /// The network's description does not fit together.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The weights are not the network's.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Images of another size than the network's.
    #[error(
        "{values} values are no whole number of images of {image} values: give images of shape {shape:?}"
    )]
    Images {
        /// Values that were given.
        values: usize,
        /// Values of an image.
        image: usize,
        /// Channels, rows and columns of an image.
        shape: [usize; 3],
    },
    /// Tables of values for another number of channels than the images have.
    #[error("there are tables of values for {tables} channels, and images of {channels}: give one for each")]
    Table {
        /// Tables that were given.
        tables: usize,
        /// Channels of an image.
        channels: usize,
    },
    /// There is not as much memory as the model takes.
    #[error("the model takes {} of memory, and {available}: give fewer images at once, or free memory", shown(*need))]
    Room {
        /// Bytes.
        need: u64,
        /// How much there is.
        available: Available,
    },
    /// The weights or the images are too large for this machine.
    #[error("the model needs more memory than there is: {0}; give fewer images at once")]
    Memory(#[from] OutOfMemory),
}
