//! Networks of `pointwise-network` in candle-nn.
//!
//! A description determines everything: the modules ([`Model`]) and their variables ([`ParameterStore`]), with PyTorch's names and initial values.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::ModuleT;
//! use pointwise_models::{Model, ParameterStore};
//! use pointwise_network::Network;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let graph = Network::by_name("nin")?.graph()?;
//! assert_eq!(graph.parameter_count(), 1_485_386);
//!
//! let device = Device::Cpu;
//! let store = ParameterStore::initialised(&graph, 42, &device)?;
//! let model = Model::new(&graph, store.var_builder(&device), 42)?;
//! let images = Tensor::zeros((1, 3, 32, 32), DType::F32, &device)?;
//! let logits = model.forward_t(&images, false)?;
//! assert_eq!(logits.dims(), [1, 10]);
//! # Ok(())
//! # }
//! ```
//!
//! The modules are candle-nn's, except where candle 0.11.1 computes something different from PyTorch or draws random numbers that cannot be seeded:
//! see [`composed`](pointwise_candle::composed).

mod activation;
mod model;
mod store;

pub use model::Model;
pub use store::ParameterStore;
