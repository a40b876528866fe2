//! A network as inference computes it: trained values folded, no-ops removed.

use crate::layers::Operation;
use pointwise_kernels::{Activation, ConvShape, FusedShape, padded};
use pointwise_network::{BlockLayers, ConvolutionLayer, Graph, Map, NormLayer, Source, StageKind, stages};
use pointwise_weights::State;
use std::borrow::Cow;

/// A convolution and what follows it.
#[derive(Debug, Clone)]
pub(crate) struct Convolution<'a> {
    pub(crate) shape: FusedShape,
    /// In PyTorch's layout, with BatchNorm's scale folded in; without BatchNorm, the state's own weight.
    pub(crate) weight: Cow<'a, [f32]>,
    /// The bias, including BatchNorm's shift.
    pub(crate) bias: Vec<f32>,
    /// The values in the border: [`FusedParameters::rings`](pointwise_kernels::FusedParameters::rings).
    pub(crate) rings: Vec<Vec<f32>>,
}

#[derive(Debug)]
pub(crate) enum Work<'a> {
    Convolution(Box<Convolution<'a>>),
    /// A convolution with its second input added to its results before the activation.
    AddedConvolution(Box<Convolution<'a>>),
    Other(Operation),
}

#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) name: String,
    pub(crate) work: Work<'a>,
    pub(crate) inputs: Vec<Source>,
    /// Its output map.
    pub(crate) output: Map,
}

/// The nodes in an order in which they can be computed. Those that nothing reads, except the last, are not compiled.
pub(crate) struct Nodes<'a> {
    pub(crate) list: Vec<Node<'a>>,
    pub(crate) output: Source,
    pub(crate) input: Map,
}

impl<'a> Nodes<'a> {
    /// The nodes of a network whose state has been checked.
    pub(crate) fn new(graph: &Graph, state: &'a State) -> Self {
        let mut nodes =
            Self { list: Vec::new(), output: Source::Images, input: Map::of(&graph.nodes[0].output) };
        // The source of each stage's output.
        let mut found: Vec<Source> = Vec::new();
        for stage in stages(graph) {
            let inputs: Vec<Source> = stage
                .sources
                .iter()
                .map(|source| match *source {
                    Source::Images => Source::Images,
                    Source::Stage(at) => found[at],
                })
                .collect();
            if let StageKind::Dropout { .. } = stage.kind {
                found.push(inputs[0]);
                continue;
            }
            let work = match &stage.kind {
                StageKind::Block(layers) => block(layers, stage.inputs[0], state),
                kind => Work::Other(Operation::new(kind, &stage.inputs)),
            };
            nodes.list.push(Node { name: stage.name, work, inputs, output: stage.output });
            found.push(Source::Stage(nodes.list.len() - 1));
        }
        nodes.output = found.last().copied().unwrap_or(Source::Images);
        nodes
    }

    /// How often each node is read.
    pub(crate) fn readers(&self) -> Vec<usize> {
        let mut readers = vec![0; self.list.len()];
        let mut is_needed = vec![false; self.list.len()];
        if let Source::Stage(at) = self.output {
            (readers[at], is_needed[at]) = (1, true);
        }
        for at in (0..self.list.len()).rev() {
            for input in &self.list[at].inputs {
                if let Source::Stage(input) = *input
                    && is_needed[at]
                {
                    readers[input] += 1;
                    is_needed[input] = true;
                }
            }
        }
        readers
    }

    /// The map of a source.
    pub(crate) fn map(&self, source: Source) -> Map {
        match source {
            Source::Images => self.input,
            Source::Stage(at) => self.list[at].output,
        }
    }

    /// Turns a linear layer after a `Flatten` into a convolution whose kernel is as large as the map, which reads the map in its stored
    /// layout.
    pub(crate) fn read_maps_flat(&mut self) {
        let readers = self.readers();
        for at in 0..self.list.len() {
            let [Source::Stage(flat)] = self.list[at].inputs[..] else { continue };
            let Work::Other(Operation::Flatten) = self.list[flat].work else { continue };
            let source = self.list[flat].inputs[0];
            let map = self.map(source);
            let Work::Convolution(linear) = &mut self.list[at].work else { continue };
            if readers[flat] != 1 || source == Source::Images {
                continue;
            }
            linear.shape.convolution = ConvShape {
                height: map.height,
                width: map.width,
                in_channels: map.channels,
                kernel: [map.height, map.width],
                ..linear.shape.convolution
            };
            self.list[at].inputs = vec![source];
        }
    }

    /// Computes each sum as part of one of its summands.
    pub(crate) fn add_in_place(&mut self) {
        let readers = self.readers();
        for at in 0..self.list.len() {
            let Work::Other(Operation::Sum { relu }) = self.list[at].work else { continue };
            let inputs = self.list[at].inputs.clone();
            let [a, b] = inputs[..] else { continue };
            let can_add = |source: Source| match source {
                Source::Stage(at) if readers[at] == 1 => match &self.list[at].work {
                    Work::Convolution(convolution) => {
                        let FusedShape { activation, .. } = convolution.shape;
                        (convolution.shape.is_direct() && activation == Activation::Identity).then_some(at)
                    }
                    _ => None,
                },
                _ => None,
            };
            // The one with more arithmetic is the better host.
            let macs = |at: &usize| match &self.list[*at].work {
                Work::Convolution(convolution) => convolution.weight.len() * self.list[*at].output.pixels(),
                _ => 0,
            };
            let Some(host) = [a, b].into_iter().filter_map(can_add).max_by_key(macs) else { continue };
            let addend = if a == Source::Stage(host) { b } else { a };
            let Work::Convolution(convolution) = &self.list[host].work else { continue };
            let mut convolution = convolution.clone();
            if relu {
                convolution.shape.activation = Activation::Relu;
            }
            let input = self.list[host].inputs[0];
            let name = format!("{}, {}", self.list[host].name, self.list[at].name);
            let node = &mut self.list[at];
            (node.name, node.work) = (name, Work::AddedConvolution(convolution));
            node.inputs = vec![input, addend];
        }
    }
}

/// A block with its trained values folded.
fn block<'a>(layers: &BlockLayers, input: Map, state: &'a State) -> Work<'a> {
    let channels = match &layers.convolution {
        Some(layer) => layer.out_channels,
        None => input.channels,
    };
    let values = |path: &str, name: &str| &state.parameters[&format!("{path}.{name}")].values[..];
    let bias: Vec<f64> = match &layers.convolution {
        Some(layer) if layer.bias => values(&layer.path, "bias").iter().copied().map(f64::from).collect(),
        _ => vec![0.0; channels],
    };
    let (scale, shift) = match &layers.norm {
        Some(norm) => affine(norm, &bias, state),
        None => (vec![1.0; channels], bias),
    };
    let activation = layers.activation.map_or(Activation::Identity, activation);
    let Some(layer) = &layers.convolution else {
        let narrow = |values: Vec<f64>| {
            let mut values: Vec<f32> = values.into_iter().map(|x| x as f32).collect();
            values.resize(padded(channels), 0.0);
            values
        };
        let (scale, shift) = (narrow(scale), narrow(shift));
        return Work::Other(Operation::Affine { scale, shift, activation, pool: layers.pool });
    };
    let mut weight = Cow::from(values(&layer.path, "weight"));
    if layers.norm.is_some() {
        let filter = weight.len() / channels;
        for (weight, scale) in weight.to_mut().chunks_exact_mut(filter).zip(&scale) {
            weight.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
        }
    }
    let bias: Vec<f32> = shift.into_iter().map(|x| x as f32).collect();
    let (convolution, border) = conv_shape(layer, input);
    let shape = FusedShape { convolution, border, activation, pool: layers.pool };
    let rings = vec![bias.clone(); border];
    Work::Convolution(Box::new(Convolution { shape, weight, bias, rings }))
}

/// The shape of a convolution, and the border in which every product is zero.
fn conv_shape(layer: &ConvolutionLayer, input: Map) -> (ConvShape, usize) {
    let shape = ConvShape {
        height: input.height,
        width: input.width,
        in_channels: layer.in_channels,
        out_channels: layer.out_channels,
        kernel: layer.kernel,
        stride: layer.stride,
        padding: layer.padding,
        groups: layer.groups,
    };
    match shape.border() {
        0 => (shape, 0),
        border => (ConvShape { padding: [0, 0], ..shape }, border),
    }
}

/// BatchNorm with the running statistics, applied to a value with this bias, as scale and shift.
fn affine(norm: &NormLayer, bias: &[f64], state: &State) -> (Vec<f64>, Vec<f64>) {
    let of = |name: &str, has: bool, other: f64| -> Vec<f64> {
        match has {
            true => {
                let array = &state.parameters[&format!("{}.{name}", norm.path)];
                array.values.iter().copied().map(f64::from).collect()
            }
            false => vec![other; norm.channels],
        }
    };
    let statistic = |name: &str| &state.statistics[&format!("{}.{name}", norm.path)].values;
    let (weight, shift) = (of("weight", norm.weight, 1.0), of("bias", norm.bias, 0.0));
    let (mean, variance) = (statistic("running_mean"), statistic("running_var"));
    let scale: Vec<f64> = weight
        .iter()
        .zip(variance)
        .map(|(weight, variance)| weight / (f64::from(*variance) + norm.eps).sqrt())
        .collect();
    let shift = (0..norm.channels)
        .map(|channel| shift[channel] + (bias[channel] - f64::from(mean[channel])) * scale[channel]);
    let shift = shift.collect();
    (scale, shift)
}

fn activation(activation: pointwise_network::Activation) -> Activation {
    use pointwise_network::Activation as Described;
    match activation {
        Described::Relu => Activation::Relu,
        Described::Relu6 => Activation::Relu6,
        Described::LeakyRelu { negative_slope } => {
            Activation::LeakyRelu { negative_slope: negative_slope as f32 }
        }
        Described::Gelu => Activation::Gelu,
        Described::GeluTanh => Activation::GeluTanh,
        Described::Silu => Activation::Silu,
        Described::Sigmoid => Activation::Sigmoid,
        Described::Tanh => Activation::Tanh,
    }
}
