//! Inference with a trained network on a CPU: a description and weights in, a compiled [`Model`] out. No training code, no tensor library.
//!
//! BatchNorm is folded into the preceding convolution, pointwise convolutions are merged into a directly preceding one, and what follows a
//! convolution is applied before its result leaves the cache. Weights are converted once to the layout in which they are read; that layout,
//! and so the method of each convolution, depends on the number of images expected per call. The threads of the current rayon pool share
//! even a single image.
//!
//! ```
//! use pointwise_inference::{Images, Model, Options};
//! use pointwise_network::Network;
//! use pointwise_weights::State;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let network = Network::by_name("lenet")?;
//! // After training: `pointwise_weights::checkpoint::read("runs/mine")?.0`.
//! let state = State::initial(&network.graph()?, 42);
//! let mut model = Model::new(&network, &state, &Options::default())?;
//!
//! // Two images, (N, C, H, W), normalised as in training.
//! let images = vec![0.5; 2 * 3 * 32 * 32];
//! let probabilities = model.probabilities(Images::Normalised(&images))?;
//! assert_eq!(probabilities.len(), 2 * 10);
//! assert!((probabilities[..10].iter().sum::<f32>() - 1.0).abs() < 1e-6);
//! # Ok(())
//! # }
//! ```

mod choose;
mod compose;
mod error;
mod images;
mod layers;
mod model;
mod nodes;

pub use error::InferenceError;
pub use images::{Images, Layout, byte_values};
pub use model::{Model, Options, StepTime};
pub use pointwise_kernels::Isa;
