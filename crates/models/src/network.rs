//! Networks as data, and what follows from the description alone.

use crate::pointwise::Pointwise;
use std::fmt;

/// Added to the variance of a BatchNorm before the square root (PyTorch's default).
pub const BATCH_NORM_EPS: f64 = 1e-5;

/// Weight of the newest batch in BatchNorm's running statistics (PyTorch's default).
pub const BATCH_NORM_MOMENTUM: f64 = 0.1;

/// One layer of a [`Section`]; strides are 1 except for the pool's.
#[derive(Debug, Clone, PartialEq)]
pub enum Layer {
    /// Square convolution with bias, stride 1, zero padding on every side. `(C, H, W)` to `(C', H + 2p - k + 1, ...)`.
    Conv2d {
        /// Channels of the input.
        in_channels: usize,
        /// Channels of the output.
        out_channels: usize,
        /// Side of the kernel.
        kernel: usize,
        /// Rows and columns of zeros on each side.
        padding: usize,
    },
    /// Batch normalisation over `(N, H, W)` for each channel, with weight, bias and running statistics.
    BatchNorm2d {
        /// Channels of input and output.
        channels: usize,
    },
    /// `max(x, 0)`.
    Relu,
    /// Maximum over 2x2 windows, stride 2; an odd last row or column is dropped.
    MaxPool2d,
    /// In training, zeroes an element with probability `p` and scales the others by `1 / (1 - p)`.
    Dropout {
        /// Probability of zero, in `[0, 1)`.
        p: f64,
    },
    /// Fully connected layer with bias.
    Linear {
        /// Length of the input.
        in_features: usize,
        /// Length of the output.
        out_features: usize,
    },
    /// Mean over the map of each channel, as `AdaptiveAvgPool2d(1)`: `(C, H, W)` to `(C, 1, 1)`.
    GlobalAvgPool,
    /// To one dimension.
    Flatten,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conv2d { in_channels, out_channels, kernel, padding } => {
                write!(f, "Conv2d {in_channels}->{out_channels} k{kernel} p{padding}")
            }
            Self::BatchNorm2d { channels } => write!(f, "BatchNorm2d {channels}"),
            Self::Relu => write!(f, "ReLU"),
            Self::MaxPool2d => write!(f, "MaxPool2d 2x2"),
            Self::Dropout { p } => write!(f, "Dropout {p}"),
            Self::Linear { in_features, out_features } => write!(f, "Linear {in_features}->{out_features}"),
            Self::GlobalAvgPool => write!(f, "AdaptiveAvgPool2d 1"),
            Self::Flatten => write!(f, "Flatten"),
        }
    }
}

/// A `torch.nn.Sequential` under a name: layer `i` of section `features` is `features.i`.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// Prefix of the parameter names.
    pub name: String,
    /// Whether the input is flattened on the way in, outside the section's numbering (`torch.flatten(x, 1)`).
    pub flatten_input: bool,
    /// The layers, in order.
    pub layers: Vec<Layer>,
}

/// A network: an input shape and sections of layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Its name on command lines and in files.
    pub name: String,
    /// Shape of one input, `[channels, height, width]`.
    pub input: [usize; 3],
    /// The sections, in order.
    pub sections: Vec<Section>,
}

/// Why a description is not a network.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NetworkError {
    /// No network has this name.
    #[error(
        "there is no model `{0}`; the models are alexnet_plain, alexnet, nin and the variations of nin, from nin-r2 to \
         nin-nopad-relu-r4"
    )]
    UnknownName(String),
    /// A layer cannot take what the layer before it gives.
    #[error("layer {path} ({layer}) of `{network}` cannot take an input of shape {input:?}")]
    Shape {
        /// The network.
        network: String,
        /// The layer's place, such as `features.4`.
        path: String,
        /// The layer.
        layer: String,
        /// The shape that it was given, without the batch dimension.
        input: Vec<usize>,
    },
    /// A dropout probability outside `[0, 1)`.
    #[error(
        "dropout {p} at {path} of `{network}` is not a probability below 1; give a number from 0 to 0.99"
    )]
    Probability {
        /// The network.
        network: String,
        /// The layer's place.
        path: String,
        /// The probability.
        p: f64,
    },
}

/// A layer with its place and the shapes around it.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacedLayer {
    /// PyTorch's path, such as `features.4`; for a flattening between sections `flatten`.
    pub path: String,
    /// The layer.
    pub layer: Layer,
    /// Shape of the input without the batch dimension: `[C, H, W]` or `[F]`.
    pub input: Vec<usize>,
    /// Shape of the output without the batch dimension.
    pub output: Vec<usize>,
}

impl PlacedLayer {
    /// Number of trainable values.
    #[must_use]
    pub fn parameters(&self) -> usize {
        match self.layer {
            Layer::Conv2d { in_channels, out_channels, kernel, .. } => {
                out_channels * (in_channels * kernel * kernel + 1)
            }
            Layer::BatchNorm2d { channels } => 2 * channels,
            Layer::Linear { in_features, out_features } => out_features * (in_features + 1),
            _ => 0,
        }
    }

    /// Multiply-accumulates of one forward pass of one image, of convolutions and linear layers; products with padding count.
    #[must_use]
    pub fn macs(&self) -> usize {
        match self.layer {
            Layer::Conv2d { in_channels, kernel, .. } => {
                self.output.iter().product::<usize>() * in_channels * kernel * kernel
            }
            Layer::Linear { in_features, out_features } => in_features * out_features,
            _ => 0,
        }
    }
}

/// A row of the layer table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// PyTorch's path of the layer.
    pub path: String,
    /// The layer in words.
    pub layer: String,
    /// Shape of its output for one image.
    pub output: Vec<usize>,
    /// Number of trainable values.
    pub parameters: usize,
    /// Multiply-accumulates for one image.
    pub macs: usize,
}

/// How a parameter begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial {
    /// Uniform in `[-bound, bound)`.
    Uniform {
        /// `1 / sqrt(fan_in)` (PyTorch's default for convolutions and linear layers, weights and biases).
        bound: f32,
    },
    /// The same value everywhere.
    Constant(f32),
}

/// A trainable parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterSpec {
    /// PyTorch's name, such as `features.0.weight`.
    pub name: String,
    /// PyTorch's shape: `(out, in, k, k)`, `(out, in)` or `(channels)`.
    pub shape: Vec<usize>,
    /// How it begins.
    pub initial: Initial,
}

/// A value that belongs to the state but is not trained: BatchNorm's running statistics.
#[derive(Debug, Clone, PartialEq)]
pub struct BufferSpec {
    /// PyTorch's name, such as `features.1.running_mean`.
    pub name: String,
    /// Number of channels.
    pub channels: usize,
    /// Value before the first step.
    pub initial: f32,
}

impl Network {
    /// The names of the study's networks, from the largest to the smallest.
    pub const NAMES: [&'static str; 3] = ["alexnet_plain", "alexnet", "nin"];

    /// The dropout probability of the study's `alexnet_plain`.
    pub const DROPOUT: f64 = 0.5;

    /// The network of that name, of the study or a variation of `nin`; `dropout` is used where the network has dropout.
    ///
    /// # Errors
    /// [`NetworkError::UnknownName`]; [`NetworkError::Probability`] unless `0 <= dropout < 1`.
    pub fn by_name(name: &str, dropout: f64) -> Result<Self, NetworkError> {
        let network = match name {
            "alexnet_plain" => Self::alexnet_plain(dropout),
            "alexnet" => Self::alexnet(),
            _ => match Pointwise::ALL.iter().find(|member| member.name == name) {
                Some(member) => member.network(),
                None => return Err(NetworkError::UnknownName(name.to_owned())),
            },
        };
        network.layers()?;
        Ok(network)
    }

    /// Plain AlexNet-like features with three linear layers on top: 6,979,146 parameters.
    #[must_use]
    pub fn alexnet_plain(dropout: f64) -> Self {
        let classifier = vec![
            Layer::Dropout { p: dropout },
            Layer::Linear { in_features: 4096, out_features: 1024 },
            Layer::Relu,
            Layer::Dropout { p: dropout },
            Layer::Linear { in_features: 1024, out_features: 512 },
            Layer::Relu,
            Layer::Linear { in_features: 512, out_features: 10 },
        ];
        Self {
            name: "alexnet_plain".to_owned(),
            input: [3, 32, 32],
            sections: vec![
                section("features", alexnet_features()),
                Section { name: "classifier".to_owned(), flatten_input: true, layers: classifier },
            ],
        }
    }

    /// The same features under a pointwise convolution and a global average pool: 2,256,458 parameters.
    #[must_use]
    pub fn alexnet() -> Self {
        Self {
            name: "alexnet".to_owned(),
            input: [3, 32, 32],
            sections: vec![section("features", alexnet_features()), section("head", pointwise_head())],
        }
    }

    /// Network in network: pointwise convolutions between the 3x3 ones: 1,485,386 parameters.
    ///
    /// Its pointwise convolutions pad by one, so that maps grow around them. That is the published network.
    #[must_use]
    pub fn nin() -> Self {
        Pointwise::NIN.network()
    }

    /// The layers with their places and shapes, checked against each other.
    ///
    /// # Errors
    /// [`NetworkError::Shape`] for the first layer that cannot take its input, [`NetworkError::Probability`].
    pub fn layers(&self) -> Result<Vec<PlacedLayer>, NetworkError> {
        let mut shape = self.input.to_vec();
        let mut placed = Vec::new();
        for section in &self.sections {
            if section.flatten_input {
                placed.push(self.place("flatten".to_owned(), Layer::Flatten, &mut shape)?);
            }
            for (index, layer) in section.layers.iter().enumerate() {
                let path = format!("{}.{index}", section.name);
                placed.push(self.place(path, layer.clone(), &mut shape)?);
            }
        }
        Ok(placed)
    }

    /// Appends a layer: `shape` goes in as the input's and comes out as the output's.
    fn place(&self, path: String, layer: Layer, shape: &mut Vec<usize>) -> Result<PlacedLayer, NetworkError> {
        let output = match (&layer, shape.as_slice()) {
            (&Layer::Conv2d { in_channels, out_channels, kernel, padding }, &[c, h, w])
                if c == in_channels && kernel > 0 && h.min(w) + 2 * padding >= kernel =>
            {
                Some(vec![out_channels, h + 2 * padding - kernel + 1, w + 2 * padding - kernel + 1])
            }
            (&Layer::BatchNorm2d { channels }, &[c, h, w]) if c == channels => Some(vec![c, h, w]),
            (Layer::MaxPool2d, &[c, h, w]) if h >= 2 && w >= 2 => Some(vec![c, h / 2, w / 2]),
            (&Layer::Linear { in_features, out_features }, &[f]) if f == in_features => {
                Some(vec![out_features])
            }
            (Layer::GlobalAvgPool, &[c, _, _]) => Some(vec![c, 1, 1]),
            (Layer::Flatten, any) => Some(vec![any.iter().product()]),
            (&Layer::Dropout { p }, _) if !(0.0..1.0).contains(&p) => {
                return Err(NetworkError::Probability { network: self.name.clone(), path, p });
            }
            (Layer::Relu | Layer::Dropout { .. }, any) => Some(any.to_vec()),
            _ => None,
        };
        let Some(output) = output else {
            return Err(NetworkError::Shape {
                network: self.name.clone(),
                path,
                layer: layer.to_string(),
                input: shape.clone(),
            });
        };
        let input = std::mem::replace(shape, output.clone());
        Ok(PlacedLayer { path, layer, input, output })
    }

    /// The table of layers: shapes, parameters, multiply-accumulates.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn table(&self) -> Result<Vec<Row>, NetworkError> {
        Ok(self
            .layers()?
            .into_iter()
            .map(|placed| Row {
                layer: placed.layer.to_string(),
                parameters: placed.parameters(),
                macs: placed.macs(),
                path: placed.path,
                output: placed.output,
            })
            .collect())
    }

    /// Number of trainable values; BatchNorm's running statistics are not trained.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn parameter_count(&self) -> Result<usize, NetworkError> {
        Ok(self.layers()?.iter().map(PlacedLayer::parameters).sum())
    }

    /// Multiply-accumulates of one forward pass of one image.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn macs(&self) -> Result<usize, NetworkError> {
        Ok(self.layers()?.iter().map(PlacedLayer::macs).sum())
    }

    /// Number of classes: the length of the output.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn classes(&self) -> Result<usize, NetworkError> {
        Ok(self.layers()?.last().map_or(0, |last| last.output.iter().product()))
    }

    /// The trainable parameters, sorted by name.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn parameters(&self) -> Result<Vec<ParameterSpec>, NetworkError> {
        let mut parameters = Vec::new();
        for PlacedLayer { path, layer, .. } in self.layers()? {
            let (weight_shape, channels, weight, bias) = match layer {
                Layer::Conv2d { in_channels, out_channels, kernel, .. } => {
                    let initial = uniform(in_channels * kernel * kernel);
                    (vec![out_channels, in_channels, kernel, kernel], out_channels, initial, initial)
                }
                Layer::Linear { in_features, out_features } => {
                    let initial = uniform(in_features);
                    (vec![out_features, in_features], out_features, initial, initial)
                }
                Layer::BatchNorm2d { channels } => {
                    (vec![channels], channels, Initial::Constant(1.0), Initial::Constant(0.0))
                }
                _ => continue,
            };
            parameters.push(ParameterSpec {
                name: format!("{path}.weight"),
                shape: weight_shape,
                initial: weight,
            });
            parameters.push(ParameterSpec {
                name: format!("{path}.bias"),
                shape: vec![channels],
                initial: bias,
            });
        }
        parameters.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(parameters)
    }

    /// BatchNorm's running statistics, sorted by name.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn buffers(&self) -> Result<Vec<BufferSpec>, NetworkError> {
        let mut buffers = Vec::new();
        for PlacedLayer { path, layer, .. } in self.layers()? {
            if let Layer::BatchNorm2d { channels } = layer {
                buffers.push(BufferSpec { name: format!("{path}.running_mean"), channels, initial: 0.0 });
                buffers.push(BufferSpec { name: format!("{path}.running_var"), channels, initial: 1.0 });
            }
        }
        buffers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(buffers)
    }
}

pub(crate) fn section(name: &str, layers: Vec<Layer>) -> Section {
    Section { name: name.to_owned(), flatten_input: false, layers }
}

fn uniform(fan_in: usize) -> Initial {
    Initial::Uniform { bound: (1.0 / (fan_in as f64).sqrt()) as f32 }
}

/// The features that both AlexNets share: `(3, 32, 32)` to `(256, 4, 4)`.
fn alexnet_features() -> Vec<Layer> {
    let mut layers = Vec::new();
    for (in_channels, out_channels, pool) in
        [(3, 64, true), (64, 192, true), (192, 384, false), (384, 256, false), (256, 256, true)]
    {
        layers.extend([
            Layer::Conv2d { in_channels, out_channels, kernel: 3, padding: 1 },
            Layer::BatchNorm2d { channels: out_channels },
            Layer::Relu,
        ]);
        if pool {
            layers.push(Layer::MaxPool2d);
        }
    }
    layers
}

/// Classes by a pointwise convolution and a global average: `(256, H, W)` to `(10)`.
pub(crate) fn pointwise_head() -> Vec<Layer> {
    vec![
        Layer::Conv2d { in_channels: 256, out_channels: 10, kernel: 1, padding: 0 },
        Layer::GlobalAvgPool,
        Layer::Flatten,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output shapes of every layer, written out by hand from the published networks.
    #[test]
    fn every_shape_and_the_published_totals() {
        let features: &[&[usize]] = &[
            &[64, 32, 32],
            &[64, 32, 32],
            &[64, 32, 32],
            &[64, 16, 16],
            &[192, 16, 16],
            &[192, 16, 16],
            &[192, 16, 16],
            &[192, 8, 8],
            &[384, 8, 8],
            &[384, 8, 8],
            &[384, 8, 8],
            &[256, 8, 8],
            &[256, 8, 8],
            &[256, 8, 8],
            &[256, 8, 8],
            &[256, 8, 8],
            &[256, 8, 8],
            &[256, 4, 4],
        ];
        let plain: &[&[usize]] = &[&[4096], &[4096], &[1024], &[1024], &[1024], &[512], &[512], &[10]];
        let nin: &[&[usize]] = &[
            &[64, 32, 32],
            &[64, 32, 32],
            &[64, 32, 32],
            &[64, 16, 16],
            &[128, 16, 16],
            &[128, 16, 16],
            &[128, 18, 18],
            &[128, 18, 18],
            &[192, 20, 20],
            &[192, 20, 20],
            &[192, 20, 20],
            &[192, 10, 10],
            &[256, 10, 10],
            &[256, 10, 10],
            &[256, 12, 12],
            &[256, 12, 12],
            &[384, 14, 14],
            &[384, 14, 14],
            &[384, 14, 14],
            &[384, 7, 7],
            &[256, 9, 9],
            &[256, 9, 9],
            &[256, 9, 9],
            &[256, 9, 9],
            &[256, 11, 11],
            &[256, 11, 11],
            &[256, 11, 11],
            &[256, 5, 5],
            &[10, 5, 5],
            &[10, 1, 1],
            &[10],
        ];
        let gap: &[&[usize]] = &[&[10, 4, 4], &[10, 1, 1], &[10]];
        let cases = [
            (Network::alexnet_plain(0.5), [features, plain].concat(), 6_979_146),
            (Network::alexnet(), [features, gap].concat(), 2_256_458),
            (Network::nin(), nin.to_vec(), 1_485_386),
        ];
        for (network, expected, total) in cases {
            let table = network.table().unwrap();
            let shapes: Vec<&[usize]> = table.iter().map(|row| row.output.as_slice()).collect();
            assert_eq!(shapes, expected, "{}", network.name);
            assert_eq!(network.parameter_count().unwrap(), total, "{}", network.name);
            let by_tensor: usize =
                network.parameters().unwrap().iter().map(|p| p.shape.iter().product::<usize>()).sum();
            assert_eq!(by_tensor, total, "{}", network.name);
            assert_eq!(network.classes().unwrap(), 10);
            assert_eq!(Network::by_name(&network.name, 0.5).unwrap(), network);
        }
    }

    #[test]
    fn macs_by_hand() {
        // alexnet: 32*32*64*27 + 16*16*192*576 + 8*8*(384*1728 + 256*3456 + 256*2304) + 4*4*10*256
        let expected = 1_769_472 + 28_311_552 + 64 * (663_552 + 884_736 + 589_824) + 40_960;
        assert_eq!(Network::alexnet().macs().unwrap(), expected);
    }

    #[test]
    fn a_description_that_does_not_fit_names_the_layer() {
        let mut network = Network::nin();
        network.sections[0].layers[4] =
            Layer::Conv2d { in_channels: 65, out_channels: 128, kernel: 3, padding: 1 };
        let error = network.layers().unwrap_err().to_string();
        assert_eq!(
            error,
            "layer features.4 (Conv2d 65->128 k3 p1) of `nin` cannot take an input of shape [64, 16, 16]"
        );
        assert!(matches!(Network::by_name("vgg", 0.5), Err(NetworkError::UnknownName(_))));
        for p in [1.0, -0.1, f64::NAN] {
            assert!(
                matches!(Network::by_name("alexnet_plain", p), Err(NetworkError::Probability { .. })),
                "{p}"
            );
        }
    }
}
