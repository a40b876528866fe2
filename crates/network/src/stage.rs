//! A network as the stages of a compiled plan, independent of the device.
//!
//! Most are blocks: a convolution or linear layer with the layers that follow it. A stage reads the images or earlier stages.

use crate::graph::{Graph, Operation};
use crate::layer::{Activation, Layer, MaxPool2d, Pair};

/// A map of one image: rows, columns, channels. A vector is a map of one pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl Map {
    /// The map of a shape: `[channels, rows, columns]` or `[features]`.
    #[must_use]
    pub fn of(shape: &[usize]) -> Self {
        match *shape {
            [channels, height, width] => Self { height, width, channels },
            _ => Self { height: 1, width: 1, channels: shape.iter().product() },
        }
    }

    /// Rows times columns.
    #[must_use]
    pub fn pixels(self) -> usize {
        self.height * self.width
    }
}

/// An input of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The input images of the network.
    Images,
    /// The output of the stage of this number.
    Stage(usize),
}

/// Layers that are computed together.
#[derive(Debug, Clone)]
pub struct Stage {
    /// The layers' paths, such as `features.0-3`.
    pub name: String,
    /// What it does.
    pub kind: StageKind,
    /// What it reads.
    pub sources: Vec<Source>,
    /// The maps of `sources`.
    pub inputs: Vec<Map>,
    /// The map of its output.
    pub output: Map,
    /// Multiply-accumulates of the forward pass of one image, by the definition of the convolution.
    pub macs: usize,
}

/// What a [`Stage`] does.
#[derive(Debug, Clone)]
pub enum StageKind {
    /// A convolution with the layers that follow it.
    Block(BlockLayers),
    /// Dropout, which does nothing outside of training.
    Dropout {
        /// Probability of a zero.
        p: f64,
        /// Number of the dropout layer in its network, from 0.
        layer: u32,
    },
    /// The mean of each channel.
    GlobalAverage,
    /// Maximum pooling.
    MaxPool(Window),
    /// Average pooling.
    AveragePool {
        /// Its windows.
        window: Window,
        /// Whether the mean includes the padding of a window.
        count_include_pad: bool,
    },
    /// From a map of several pixels to a vector in `(C, H, W)` order.
    Flatten,
    /// Multiplication with a factor.
    Scale(f32),
    /// Every n-th pixel along rows and columns.
    Subsample([usize; 2]),
    /// Channels of zeros before and after the others; the number after them follows from the output.
    PadChannels {
        /// Number of channels before the others.
        before: usize,
    },
    /// The sum of the sources.
    Sum {
        /// Whether negative sums become zero.
        relu: bool,
    },
    /// The sources, concatenated along the channels.
    Concat,
    /// The product of the sources; one of a single pixel multiplies every pixel.
    Multiply,
}

impl StageKind {
    /// The kind in words, for messages and tables.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Block(_) => "a block",
            Self::Dropout { .. } => "Dropout",
            Self::GlobalAverage => "AdaptiveAvgPool2d",
            Self::MaxPool(_) => "MaxPool2d",
            Self::AveragePool { .. } => "AvgPool2d",
            Self::Flatten => "Flatten",
            Self::Scale(_) => "Scale",
            Self::Subsample(_) => "Subsample",
            Self::PadChannels { .. } => "PadChannels",
            Self::Sum { .. } => "Sum",
            Self::Concat => "Concat",
            Self::Multiply => "Multiply",
        }
    }
}

/// The windows of a pool, rows first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Sides of a window.
    pub kernel: [usize; 2],
    /// Distance from one window to the next.
    pub stride: [usize; 2],
    /// By how much windows extend beyond the edges.
    pub padding: [usize; 2],
}

impl Window {
    fn new(Pair(kernel): Pair, Pair(stride): Pair, Pair(padding): Pair) -> Self {
        Self { kernel, stride, padding }
    }
}

/// Convolution, then BatchNorm, then an activation, then 2x2 maximum pooling; each may be missing.
#[derive(Debug, Clone, Default)]
pub struct BlockLayers {
    /// The convolution or linear layer.
    pub convolution: Option<ConvolutionLayer>,
    /// BatchNorm.
    pub norm: Option<NormLayer>,
    /// The activation.
    pub activation: Option<Activation>,
    /// Whether there is a pool.
    pub pool: bool,
}

/// A convolution, or a linear layer as a 1x1 convolution of one pixel.
#[derive(Debug, Clone)]
pub struct ConvolutionLayer {
    /// PyTorch's path.
    pub path: String,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Pixels of the input from one output to the next.
    pub stride: [usize; 2],
    /// Zeros around the map.
    pub padding: [usize; 2],
    /// Groups of channels.
    pub groups: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// Whether it is a linear layer.
    pub linear: bool,
}

impl ConvolutionLayer {
    /// PyTorch's shape of the weight.
    #[must_use]
    pub fn weight_shape(&self) -> Vec<usize> {
        let [rows, columns] = self.kernel;
        match self.linear {
            true => vec![self.out_channels, self.in_channels],
            false => vec![self.out_channels, self.in_channels / self.groups, rows, columns],
        }
    }
}

/// The path of the first BatchNorm that sees a single value per channel in a batch of this many images, and so has no variance to train with.
#[must_use]
pub fn norm_of_one_value(stages: &[Stage], images: usize) -> Option<&str> {
    let mut norms = stages.iter().filter_map(|stage| match &stage.kind {
        StageKind::Block(block) => block.norm.as_ref(),
        _ => None,
    });
    norms.find(|norm| images.saturating_mul(norm.pixels) < 2).map(|norm| norm.path.as_str())
}

/// BatchNorm.
#[derive(Debug, Clone)]
pub struct NormLayer {
    /// PyTorch's path.
    pub path: String,
    /// Channels.
    pub channels: usize,
    /// Pixels of the map that is normalised.
    pub pixels: usize,
    /// Added to the variance.
    pub eps: f64,
    /// The new batch's share in the running statistics.
    pub momentum: f64,
    /// Whether it has weights.
    pub weight: bool,
    /// Whether it has biases.
    pub bias: bool,
}

/// Groups the layers into stages, each after those that it reads; the last one computes the logits.
#[must_use]
pub fn stages(graph: &Graph) -> Vec<Stage> {
    let mut readers = vec![0; graph.nodes.len()];
    for input in graph.nodes.iter().flat_map(|node| &node.inputs) {
        readers[*input] += 1;
    }
    let mut grouping =
        Grouping { graph, readers, stages: Vec::new(), last: Vec::new(), sources: Vec::new(), dropouts: 0 };
    for at in 0..graph.nodes.len() {
        let source = grouping.add(at);
        grouping.sources.push(source);
    }
    grouping.stages
}

struct Grouping<'a> {
    graph: &'a Graph,
    /// How many nodes read each node.
    readers: Vec<usize>,
    stages: Vec<Stage>,
    /// For each stage, the last of its layers among the graph's nodes.
    last: Vec<usize>,
    /// For each node, where its value is found.
    sources: Vec<Source>,
    dropouts: u32,
}

impl Grouping<'_> {
    /// Puts a node into a stage and returns where its value is found.
    fn add(&mut self, at: usize) -> Source {
        let node = &self.graph.nodes[at];
        let layer = match &node.operation {
            Operation::Input => return Source::Images,
            Operation::Sum => return self.push(at, StageKind::Sum { relu: false }),
            Operation::Concat => return self.push(at, StageKind::Concat),
            Operation::Multiply => return self.push(at, StageKind::Multiply),
            Operation::Layer(layer) => layer,
        };
        if let Some(stage) = self.join(at, layer) {
            return stage;
        }
        let input = &self.graph.nodes[node.inputs[0]].output;
        let kind = match layer {
            // A single pixel is flat already.
            Layer::Flatten(_) if Map::of(input).pixels() == 1 => return self.sources[node.inputs[0]],
            Layer::Flatten(_) => StageKind::Flatten,
            Layer::Dropout(dropout) => {
                self.dropouts += 1;
                StageKind::Dropout { p: dropout.p, layer: self.dropouts - 1 }
            }
            Layer::AdaptiveAvgPool2d(_) => StageKind::GlobalAverage,
            Layer::MaxPool2d(pool) => {
                StageKind::MaxPool(Window::new(pool.kernel_size, pool.stride(), pool.padding))
            }
            Layer::AvgPool2d(pool) => StageKind::AveragePool {
                window: Window::new(pool.kernel_size, pool.stride(), pool.padding),
                count_include_pad: pool.count_include_pad,
            },
            Layer::Scale(scale) => StageKind::Scale(scale.factor as f32),
            Layer::Subsample(subsample) => StageKind::Subsample(subsample.stride.0),
            Layer::PadChannels(pad) => StageKind::PadChannels { before: pad.before },
            // Every kind is listed: one that no block takes would be skipped silently.
            Layer::Conv2d(_)
            | Layer::Linear(_)
            | Layer::BatchNorm2d(_)
            | Layer::Relu(_)
            | Layer::Relu6(_)
            | Layer::LeakyRelu(_)
            | Layer::Gelu(_)
            | Layer::Silu(_)
            | Layer::Sigmoid(_)
            | Layer::Tanh(_) => {
                let mut layers = BlockLayers::default();
                layers.take(layer, &node.path, input);
                StageKind::Block(layers)
            }
        };
        self.push(at, kind)
    }

    /// Adds a layer to the stage that computes its input, if that stage can fuse it and nothing else reads the intermediate value.
    fn join(&mut self, at: usize, layer: &Layer) -> Option<Source> {
        let node = &self.graph.nodes[at];
        let [before] = node.inputs[..] else { return None };
        let Source::Stage(number) = self.sources[before] else { return None };
        if self.readers[before] != 1 || self.last[number] != before {
            return None;
        }
        let input = &self.graph.nodes[before].output;
        let stage = &mut self.stages[number];
        let taken = match &mut stage.kind {
            StageKind::Block(layers) => layers.take(layer, &node.path, input),
            StageKind::Sum { relu } if layer.activation() == Some(Activation::Relu) => {
                !std::mem::replace(relu, true)
            }
            _ => false,
        };
        if !taken {
            return None;
        }
        let step = node.path.rsplit('.').next().unwrap_or_default();
        stage.name = format!("{}-{step}", stage.name.split('-').next().unwrap_or_default());
        stage.output = Map::of(&node.output);
        stage.macs += layer.kind().macs(input, &node.output);
        self.last[number] = at;
        Some(Source::Stage(number))
    }

    fn push(&mut self, at: usize, kind: StageKind) -> Source {
        let node = &self.graph.nodes[at];
        let macs = match &node.operation {
            Operation::Layer(layer) => {
                layer.kind().macs(&self.graph.nodes[node.inputs[0]].output, &node.output)
            }
            _ => 0,
        };
        self.stages.push(Stage {
            name: node.path.clone(),
            kind,
            sources: node.inputs.iter().map(|input| self.sources[*input]).collect(),
            inputs: node.inputs.iter().map(|input| Map::of(&self.graph.nodes[*input].output)).collect(),
            output: Map::of(&node.output),
            macs,
        });
        self.last.push(at);
        Source::Stage(self.stages.len() - 1)
    }
}

impl BlockLayers {
    /// Appends a layer to the block; `false` if it cannot follow those that are there.
    fn take(&mut self, layer: &Layer, path: &str, input: &[usize]) -> bool {
        let path = path.to_owned();
        let nothing_behind_norm = self.activation.is_none() && !self.pool;
        match layer {
            Layer::Conv2d(conv) if self.is_empty() => {
                self.convolution = Some(ConvolutionLayer {
                    path,
                    in_channels: input[0],
                    out_channels: conv.out_channels,
                    kernel: conv.kernel_size.0,
                    stride: conv.stride.0,
                    padding: conv.padding.0,
                    groups: conv.groups,
                    bias: conv.bias,
                    linear: false,
                });
            }
            Layer::Linear(linear) if self.is_empty() => {
                self.convolution = Some(ConvolutionLayer {
                    path,
                    in_channels: input[0],
                    out_channels: linear.out_features,
                    kernel: [1, 1],
                    stride: [1, 1],
                    padding: [0, 0],
                    groups: 1,
                    bias: linear.bias,
                    linear: true,
                });
            }
            Layer::BatchNorm2d(norm) if self.norm.is_none() && nothing_behind_norm => {
                self.norm = Some(NormLayer {
                    path,
                    channels: input[0],
                    pixels: Map::of(input).pixels(),
                    eps: norm.eps,
                    momentum: norm.momentum,
                    weight: norm.weight,
                    bias: norm.bias,
                });
            }
            Layer::MaxPool2d(pool)
                if *pool == MaxPool2d::new(2)
                    && !self.pool
                    && matches!(self.activation, None | Some(Activation::Relu)) =>
            {
                self.pool = true;
            }
            _ => match layer.activation() {
                Some(activation) if nothing_behind_norm => self.activation = Some(activation),
                _ => return false,
            },
        }
        true
    }

    fn is_empty(&self) -> bool {
        self.convolution.is_none() && self.norm.is_none() && self.activation.is_none() && !self.pool
    }
}

/// The role of a parameter in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The weight of a convolution or linear layer.
    Weight,
    /// Its bias.
    Bias,
    /// BatchNorm's weight.
    NormWeight,
    /// BatchNorm's bias.
    NormBias,
}

impl BlockLayers {
    /// The parameters: role, PyTorch's name and shape.
    #[must_use]
    pub fn parameters(&self) -> Vec<(Role, String, Vec<usize>)> {
        let mut parameters = Vec::new();
        if let Some(layer) = &self.convolution {
            parameters.push((Role::Weight, format!("{}.weight", layer.path), layer.weight_shape()));
            if layer.bias {
                parameters.push((Role::Bias, format!("{}.bias", layer.path), vec![layer.out_channels]));
            }
        }
        if let Some(norm) = &self.norm {
            for (role, name, has) in
                [(Role::NormWeight, "weight", norm.weight), (Role::NormBias, "bias", norm.bias)]
            {
                if has {
                    parameters.push((role, format!("{}.{name}", norm.path), vec![norm.channels]));
                }
            }
        }
        parameters
    }
}
