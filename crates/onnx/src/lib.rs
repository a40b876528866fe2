//! Networks with their weights as [ONNX](https://onnx.ai) models, for runtimes such as ONNX Runtime and OpenVINO.
//!
//! A model computes what the network computes at inference: there is no dropout, and BatchNorm has the running statistics. The number of images,
//! `batch`, is left open; all other sizes are fixed.
//!
//! | | name | type and shape |
//! |---|---|---|
//! | input | `input` | f32, `(batch, channels, rows, columns)`, normalised |
//! | input, with [`Options::preprocessing`] | `image` | u8, `(batch, rows, columns, channels)`, as a file has it |
//! | output | `logits` | f32, `(batch, classes)` |
//! | output, with [`Options::softmax`] | `probabilities` | f32, `(batch, classes)`, each row sums to 1 |
//!
//! Weights have PyTorch's names, such as `features.0.weight`, and values those of the layers that compute them, such as `features.0`. The model
//! states the shape of every value.
//!
//! ```
//! use pointwise_network::Network;
//! use pointwise_onnx::{Options, encode};
//! use pointwise_weights::State;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let network = Network::by_name("lenet")?;
//! // Usually read from a file.
//! let state = State::initial(&network.graph()?, 42);
//! let model = encode(&network, &state, &Options { softmax: true, ..Options::default() })?;
//! # let file = tempfile::NamedTempFile::new()?;
//! # let file = file.path();
//! std::fs::write(file, model)?;
//! # Ok(())
//! # }
//! ```

mod encode;
mod error;
mod fold;
mod layer;
mod model;
mod names;

pub use encode::encode;
pub use error::OnnxError;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The versions of the operator set in which a model can be written: all have the operators used, with the same meaning. The last one is that of
/// ONNX 1.23.
pub const OPSETS: RangeInclusive<u32> = 20..=28;

/// What a model has in addition to network and weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Version of the operator set, one of [`OPSETS`]: runtimes reject, or warn about, models of a newer one than theirs.
    pub opset: u32,
    /// Whether BatchNorm directly after a convolution becomes part of its weights.
    pub fold: bool,
    /// Whether the model takes images as bytes, and how it normalises them.
    pub preprocessing: Option<Preprocessing>,
    /// Whether the model ends in a softmax.
    pub softmax: bool,
    /// Metadata of the model, for people and programs: texts by key.
    pub metadata: BTreeMap<String, String>,
}

impl Default for Options {
    /// The newest operator set, and nothing else.
    fn default() -> Self {
        Self {
            opset: *OPSETS.end(),
            fold: false,
            preprocessing: None,
            softmax: false,
            metadata: BTreeMap::new(),
        }
    }
}

/// From the bytes of an image to the network's input: `(byte / 255 - mean) / std`.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessing {
    /// Mean of each channel, of values in [0, 1].
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, above 0.
    pub std: Vec<f32>,
}
