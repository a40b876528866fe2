//! The kinds of layers, one per file.

mod activation;
mod batch_norm;
mod channels;
mod conv2d;
mod dropout;
mod flatten;
mod kind;
mod linear;
mod pair;
mod pool;

pub use activation::{Activation, Gelu, GeluApproximation, LeakyRelu, Relu, Relu6, Sigmoid, Silu, Tanh};
pub use batch_norm::BatchNorm2d;
pub use channels::{PadChannels, Scale, Subsample};
pub use conv2d::Conv2d;
pub use dropout::Dropout;
pub use flatten::Flatten;
pub use kind::{LayerKind, LayerParameter};
pub use linear::Linear;
pub use pair::Pair;
pub use pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Defines [`Layer`] and what all kinds share: the mapping between PyTorch's class name and the type.
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

            /// The layer as its [`LayerKind`].
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

impl Layer {
    /// The function of an activation layer; `None` for others. Every kind is named, so that a new one cannot be forgotten.
    #[must_use]
    pub fn activation(&self) -> Option<Activation> {
        Some(match self {
            Self::Relu(_) => Activation::Relu,
            Self::Relu6(_) => Activation::Relu6,
            Self::LeakyRelu(LeakyRelu { negative_slope }) => {
                Activation::LeakyRelu { negative_slope: *negative_slope }
            }
            Self::Gelu(Gelu { approximate: GeluApproximation::None }) => Activation::Gelu,
            Self::Gelu(Gelu { approximate: GeluApproximation::Tanh }) => Activation::GeluTanh,
            Self::Silu(_) => Activation::Silu,
            Self::Sigmoid(_) => Activation::Sigmoid,
            Self::Tanh(_) => Activation::Tanh,
            Self::Conv2d(_)
            | Self::Linear(_)
            | Self::BatchNorm2d(_)
            | Self::MaxPool2d(_)
            | Self::AvgPool2d(_)
            | Self::AdaptiveAvgPool2d(_)
            | Self::Dropout(_)
            | Self::Flatten(_)
            | Self::Scale(_)
            | Self::Subsample(_)
            | Self::PadChannels(_) => return None,
        })
    }
}
