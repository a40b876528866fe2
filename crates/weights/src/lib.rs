//! The weights of a network as arrays by PyTorch's names, and the files that hold them; no tensors.
//!
//! A [`State`] is what engines and devices exchange: parameters, BatchNorm's statistics, the optimizer's buffers, averages. A [`checkpoint`] is
//! the safetensors file that holds it, and [`dictionary`] converts what other files hold, the tensors of a `state_dict`, to a state.
//!
//! ```
//! use pointwise_network::Network;
//! use pointwise_weights::State;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let network = Network::by_name("lenet")?;
//! let state = State::initial(&network.graph()?, 42);
//! state.check(&network)?;
//! assert_eq!(state.parameters["conv1.weight"].shape, [6, 3, 5, 5]);
//! # Ok(())
//! # }
//! ```

pub mod checkpoint;
pub mod dictionary;
mod error;
mod foreign;
mod state;

pub use error::WeightsError;
pub use state::{Array, Average, OptimizerState, State};
