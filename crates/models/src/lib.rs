//! The three networks of the study, each described once as data, and variations of `nin` ([`Pointwise`]).
//!
//! A [`Network`] is a list of [`Layer`]s in PyTorch's order and with PyTorch's names. Everything else follows from it: the
//! candle-nn modules ([`Model`]), the initial values ([`ParameterStore`]), the names and shapes of the parameters
//! ([`Network::parameters`]) and the table of layers with shapes, parameter counts and multiply-accumulates
//! ([`Network::table`]).
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::ModuleT;
//! use pointwise_models::{Model, Network, ParameterStore};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let network = Network::nin();
//! assert_eq!(network.parameter_count()?, 1_485_386);
//!
//! let device = Device::Cpu;
//! let store = ParameterStore::initialised(&network, 42, &device)?;
//! let model = Model::new(&network, store.var_builder(&device), 42)?;
//! let images = Tensor::zeros((1, 3, 32, 32), DType::F32, &device)?;
//! let logits = model.forward_t(&images, false)?;
//! assert_eq!(logits.dims(), [1, 10]);
//! # Ok(())
//! # }
//! ```
//!
//! The modules are candle-nn's, except where candle 0.11.1 computes something else than PyTorch or draws numbers that cannot
//! be seeded: see [`ops`].

mod model;
mod network;
pub mod ops;
mod pointwise;
mod store;

pub use model::Model;
pub use network::{
    BATCH_NORM_EPS, BATCH_NORM_MOMENTUM, BufferSpec, Initial, Layer, Network, NetworkError, ParameterSpec,
    PlacedLayer, Row, Section,
};
pub use pointwise::Pointwise;
pub use store::ParameterStore;
