//! The kinds of layers, a file each.

mod activation;
mod batch_norm;
mod channels;
mod conv2d;
mod dropout;
mod flatten;
mod linear;
mod pair;
mod pool;

pub use activation::{Activation, Gelu, GeluApproximation, LeakyRelu, Relu, Relu6, Sigmoid, Silu, Tanh};
pub use batch_norm::BatchNorm2d;
pub use channels::{PadChannels, Scale, Subsample};
pub use conv2d::Conv2d;
pub use dropout::Dropout;
pub use flatten::Flatten;
pub use linear::Linear;
pub use pair::Pair;
pub use pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d};

use crate::initial::Initial;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The largest number of channels or features, kernel side, stride, padding and map side that a description may have: far beyond any small
/// network, and so small that products of a few of them fit their types.
pub const MAX_SIZE: usize = 1 << 16;

/// The largest number of values of one layer's output for one image.
pub const MAX_VALUES: usize = 1 << 31;

/// A parameter of a layer, under the name that it has in PyTorch's layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerParameter {
    /// `weight` or `bias`.
    pub name: &'static str,
    /// PyTorch's shape.
    pub shape: Vec<usize>,
    /// The values that it has before training unless a rule of the network says otherwise: PyTorch's default.
    pub initial: Initial,
}

/// What a kind of layer says about itself. Shapes are those of one image: `[channels, rows, columns]` or `[features]`.
pub trait LayerKind {
    /// The shape behind the layer.
    ///
    /// # Errors
    /// The reason why it cannot take the input, as the second half of a sentence.
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String>;

    /// The layer in a few words, such as `Conv2d 64->128 k3 p1`.
    fn describe(&self, input: &[usize]) -> String;

    /// The trained parameters, for an input that [`LayerKind::output`] takes.
    fn parameters(&self, input: &[usize]) -> Vec<LayerParameter> {
        let _ = input;
        Vec::new()
    }

    /// Multiply-accumulates of one forward pass of one image, of convolutions and linear layers; products with padding count.
    fn macs(&self, input: &[usize], output: &[usize]) -> usize {
        let _ = (input, output);
        0
    }
}

/// Defines [`Layer`] with what is the same for every kind: PyTorch's class name leads to the type and back.
macro_rules! layers {
    ($($variant:ident = $class:literal,)*) => {
        /// A layer, by the name of its class in PyTorch.
        ///
        /// In a file, `"ReLU"` is a layer with defaults and `{ Conv2d = { out_channels = 64, kernel_size = 3 } }` one with arguments.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Layer {
            $(#[doc = concat!("See [`", stringify!($variant), "`].")] $variant($variant),)*
        }

        impl Layer {
            /// The class names, in the order of the documentation.
            pub const CLASSES: &[&str] = &[$($class),*];

            /// PyTorch's name of the class.
            #[must_use]
            pub fn class(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $class,)*
                }
            }

            /// What the kind of layer says about itself.
            #[must_use]
            pub fn kind(&self) -> &dyn LayerKind {
                match self {
                    $(Self::$variant(layer) => layer,)*
                }
            }

            /// Reads the arguments of a class.
            pub(crate) fn read<'de, D: Deserializer<'de>>(class: &str, arguments: D) -> Result<Self, D::Error> {
                match class {
                    $($class => $variant::deserialize(arguments).map(Self::$variant),)*
                    _ => Err(D::Error::unknown_variant(class, Self::CLASSES)),
                }
            }

            /// Writes the arguments.
            pub(crate) fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $(Self::$variant(layer) => layer.serialize(serializer),)*
                }
            }

            /// For each class, its name and the schema of its arguments.
            pub(crate) fn schemas(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
                vec![$(($class, <$variant as JsonSchema>::json_schema(generator)),)*]
            }
        }

        $(
            impl From<$variant> for Layer {
                fn from(layer: $variant) -> Self {
                    Self::$variant(layer)
                }
            }
        )*
    };
}

layers! {
    Conv2d = "Conv2d",
    Linear = "Linear",
    BatchNorm2d = "BatchNorm2d",
    Relu = "ReLU",
    Relu6 = "ReLU6",
    LeakyRelu = "LeakyReLU",
    Gelu = "GELU",
    Silu = "SiLU",
    Sigmoid = "Sigmoid",
    Tanh = "Tanh",
    MaxPool2d = "MaxPool2d",
    AvgPool2d = "AvgPool2d",
    AdaptiveAvgPool2d = "AdaptiveAvgPool2d",
    Dropout = "Dropout",
    Flatten = "Flatten",
    Scale = "Scale",
    Subsample = "Subsample",
    PadChannels = "PadChannels",
}

/// The channels, rows and columns of a map.
fn map(input: &[usize]) -> Result<[usize; 3], String> {
    match *input {
        [channels, height, width] => Ok([channels, height, width]),
        _ => Err("it takes a map of [channels, rows, columns]; put it before the Flatten".to_owned()),
    }
}

/// Refuses an argument outside `low..=MAX_SIZE`.
fn check(what: &str, value: usize, low: usize) -> Result<usize, String> {
    if (low..=MAX_SIZE).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{what} is {value}; give a number from {low} to {MAX_SIZE}"))
    }
}

/// Outputs along one axis of windows of `kernel` values every `stride` over `size` values between two times `padding` zeros: PyTorch's
/// `floor((size + 2 padding - kernel) / stride) + 1`.
fn windows(size: usize, kernel: usize, stride: usize, padding: usize) -> Result<usize, String> {
    check("kernel_size", kernel, 1)?;
    check("stride", stride, 1)?;
    check("padding", padding, 0)?;
    match (size + 2 * padding).checked_sub(kernel) {
        Some(rest) => Ok(rest / stride + 1),
        None => Err(format!(
            "a kernel of {kernel} is larger than the {} pixels with padding; give a smaller kernel_size or more padding",
            size + 2 * padding
        )),
    }
}

/// ` k3`, or ` k1x7`; nothing for the value that goes without saying.
fn pair_text(letter: &str, pair: Pair, silent: usize) -> String {
    match pair {
        Pair([a, b]) if a == b && a == silent => String::new(),
        Pair([a, b]) if a == b => format!(" {letter}{a}"),
        Pair([a, b]) => format!(" {letter}{a}x{b}"),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_true(value: &bool) -> bool {
    *value
}

fn yes() -> bool {
    true
}
