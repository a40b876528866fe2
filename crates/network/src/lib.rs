//! Small convolutional networks as data: layers, composition, names, shapes, counts and initial values. No tensors.
//!
//! A [`Network`] is read from a TOML file or built in code. Everything else follows from it: the [`Graph`] of nodes with their shapes, PyTorch's
//! names of the parameters, their number and initial values, and the multiply-accumulates.
//!
//! ```
//! use pointwise_network::Network;
//!
//! # fn main() -> Result<(), pointwise_network::NetworkError> {
//! let network = Network::from_toml(
//!     r#"
//!     name = "residual"
//!     input = [3, 32, 32]
//!     layers = [
//!         { name = "conv1", Conv2d = { out_channels = 16, kernel_size = 3, padding = 1, bias = false } },
//!         { name = "bn1", BatchNorm2d = {} },
//!         "ReLU",
//!         { name = "layer1", Sequential = [
//!             { repeat = 2, Sequential = [
//!                 { Sum = [
//!                     [
//!                         { name = "conv1", Conv2d = { out_channels = 16, kernel_size = 3, padding = 1, bias = false } },
//!                         { name = "bn1", BatchNorm2d = {} },
//!                     ],
//!                     [], # the identity
//!                 ] },
//!                 "ReLU",
//!             ] },
//!         ] },
//!         "AdaptiveAvgPool2d",
//!         "Flatten",
//!         { name = "fc", Linear = { out_features = 10 } },
//!     ]
//!     "#,
//! )?;
//! let graph = network.graph()?;
//! assert_eq!(graph.parameter_count(), 16 * 27 + 32 + 2 * (16 * 144 + 32) + 170);
//! assert!(graph.parameters().iter().any(|parameter| parameter.name == "layer1.1.conv1.weight"));
//! # Ok(())
//! # }
//! ```

mod entry;
mod error;
mod export;
mod file;
mod graph;
mod initial;
mod layer;
mod limits;
mod network;
mod schema;
mod shipped;
mod stage;
mod whitening;

pub use entry::{Branch, Entry, Part};
pub use error::NetworkError;
pub use graph::{Graph, LayerSummary, Node, Operation, Parameter, Statistic};
pub use initial::{Fan, Initial, Kaiming, Nonlinearity, Rule, Whitening};
pub use layer::{
    Activation, AdaptiveAvgPool2d, AvgPool2d, BatchNorm2d, Conv2d, Dropout, Flatten, Gelu, GeluApproximation,
    Layer, LayerKind, LayerParameter, LeakyRelu, Linear, MaxPool2d, PadChannels, Pair, Relu, Relu6, Scale,
    Sigmoid, Silu, Subsample, Tanh,
};
pub use limits::{MAX_SIZE, MAX_VALUES};
pub use network::{InitialRule, Network};
pub use stage::{
    BlockLayers, ConvolutionLayer, Map, NormLayer, Role, Source, Stage, StageKind, Window, norm_of_one_value,
    stages,
};
pub use whitening::whitening_weights;
