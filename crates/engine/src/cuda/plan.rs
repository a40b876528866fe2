//! Where everything lies on the GPU and how large it is: planning needs no device.

use super::launch::{BlockShape, Chunks, RowLoss, Tiles, Windows, activation};
use crate::error::EngineError;
use crate::gradients::{Flow, Schedule};
use crate::places::{Place, Places};
use crate::stage::check_training;
use pointwise_network::{Activation, Graph};
use pointwise_network::{
    BlockLayers, ConvolutionLayer, Map, NormLayer, Role, Source, Stage, StageKind, Window, stages,
};
use pointwise_recipe::{Group, Precision, Recipe};
use pointwise_weights::Array;
use std::collections::BTreeMap;

/// Values in a vector of 16 bytes: channels are padded to a multiple of it.
pub(super) fn lane(precision: Precision) -> usize {
    match precision {
        Precision::F32 | Precision::Tf32 => 4,
        Precision::Bf16 => 8,
    }
}

/// Bytes of a value on its way through the network.
pub(super) fn width(precision: Precision) -> usize {
    16 / lane(precision)
}

/// The memory layout of a network.
///
/// Parameters lie in one arena: first the weights of convolutions and linear layers (see [`Convolution`]); then three rows of `channels`
/// values: BatchNorm's weights, its biases, the convolutions' biases. A block's channels start at `at` in each row, and in every other
/// array with a value for each channel. Places of parameters that a layer lacks hold zeros.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) lane: usize,
    width: usize,
    pub(super) input: Map,
    pub(super) nodes: Vec<Node>,
    /// For each node, where its gradients lie.
    pub(super) schedule: Schedule,
    stages: Vec<Stage>,
    places: Places<At>,
    /// Values of the arena that are weights.
    pub(super) weights: usize,
    /// Values in each row after the weights.
    pub(super) channels: usize,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) sources: Vec<Source>,
    /// The maps of `sources`.
    pub(super) inputs: Vec<Map>,
    pub(super) output: Map,
    macs: usize,
}

#[derive(Debug)]
pub(super) enum Kind {
    Block(Block),
    Dropout {
        p: f64,
        layer: u32,
    },
    /// Over the whole map.
    Average,
    Flatten,
    MaxPool(Window),
    AveragePool {
        window: Window,
        include_padding: bool,
    },
    Scale(f32),
    PadChannels {
        before: usize,
    },
    Sum {
        relu: bool,
    },
    Concat,
    Multiply,
}

/// A convolution with BatchNorm or its bias, an activation and a pool; each may be missing.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) convolution: Option<Convolution>,
    pub(super) norm: Option<NormLayer>,
    pub(super) activation: Option<Activation>,
    pub(super) pool: bool,
    /// The convolution's results or, without one, the input. For a padded pointwise convolution only the inner map: in the border, `border`
    /// pixels on each side, every product is zero.
    pub(super) results: Map,
    pub(super) border: usize,
    /// First of the block's channels.
    pub(super) at: usize,
}

/// A convolution and where its weights lie: `(outputs, rows, columns, in_group)`, or `(rows, columns, out_channels)` with
/// [`Method::Depthwise`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Convolution {
    pub(super) method: Method,
    /// Padded.
    pub(super) in_channels: usize,
    /// Padded.
    pub(super) out_channels: usize,
    pub(super) window: Window,
    pub(super) groups: usize,
    /// Channels of a group on either side: padded if there is one group.
    pub(super) in_group: usize,
    pub(super) out_group: usize,
    /// Outputs that have weights.
    pub(super) outputs: usize,
    /// First of the weights.
    pub(super) weight: usize,
    pub(super) bias: bool,
}

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// One product of pixels and weights: pointwise, at every pixel.
    Product,
    /// By cuDNN; if it has no algorithm, as `Grouped`.
    Library,
    /// By our own kernels: groups that do not begin with whole vectors, which cuDNN would require padded one by one.
    Grouped,
    /// By our own kernels, for vectors of channels: each output sees only the input channel with its own index.
    Depthwise,
}

impl Convolution {
    fn new(layer: &ConvolutionLayer, lane: usize, weight: usize) -> Self {
        let &ConvolutionLayer { kernel, stride, padding, groups, .. } = layer;
        let [in_channels, out_channels] =
            [layer.in_channels, layer.out_channels].map(|channels| channels.next_multiple_of(lane));
        let (in_group, out_group) = (layer.in_channels / groups, layer.out_channels / groups);
        let whole = in_group.is_multiple_of(lane) && out_group.is_multiple_of(lane);
        let pointwise = kernel == [1, 1] && stride == [1, 1] && padding[0] == padding[1];
        let method = match (groups, in_group, out_group) {
            (1, ..) if pointwise => Method::Product,
            (1, ..) => Method::Library,
            (_, 1, 1) => Method::Depthwise,
            _ if whole => Method::Library,
            _ => Method::Grouped,
        };
        let (in_group, out_group, outputs) = match groups {
            1 => (in_channels, out_channels, out_channels),
            _ => (in_group, out_group, layer.out_channels),
        };
        Self {
            method,
            in_channels,
            out_channels,
            window: Window { kernel, stride, padding },
            groups,
            in_group,
            out_group,
            outputs,
            weight,
            bias: layer.bias,
        }
    }

    fn taps(&self) -> usize {
        self.window.kernel.iter().product()
    }

    /// Values of the weights.
    pub(super) fn len(&self) -> usize {
        match self.method {
            Method::Depthwise => self.taps() * self.out_channels,
            _ => self.outputs * self.taps() * self.in_group,
        }
    }
}

impl Block {
    pub(super) fn shape(&self, n: usize, lane: usize) -> BlockShape {
        let side = 2 * self.border;
        let (height, width) = (self.results.height + side, self.results.width + side);
        let shrink = if self.pool { 2 } else { 1 };
        let (activation, slope) = activation(self.activation);
        BlockShape {
            n: n as u32,
            h: self.results.height as u32,
            w: self.results.width as u32,
            border: self.border as u32,
            height: height as u32,
            width: width as u32,
            out_height: (height / shrink) as u32,
            out_width: (width / shrink) as u32,
            channels: self.results.channels.next_multiple_of(lane) as u32,
            activation,
            pool: u32::from(self.pool),
            real: self.results.channels as u32,
            slope,
        }
    }

    /// Whether the gradient of the results differs from that of the output.
    pub(super) fn changes_gradient(&self) -> bool {
        self.norm.is_some() || self.activation.is_some() || self.pool || self.border > 0
    }

    /// Whether the convolution adds a bias.
    pub(super) fn has_bias(&self) -> bool {
        self.convolution.is_some_and(|convolution| convolution.bias)
    }

    /// Whether something sums the gradient over the map: BatchNorm, or a bias.
    pub(super) fn sums_gradient(&self) -> bool {
        self.norm.is_some() || self.has_bias()
    }
}

/// Windows over maps, as the kernels take them.
pub(super) fn windows(window: Window, n: usize, from: Map, to: Map) -> Windows {
    let pair = |pair: [usize; 2]| pair.map(|side| side as u32);
    Windows {
        n: n as u32,
        height: from.height as u32,
        width: from.width as u32,
        out_height: to.height as u32,
        out_width: to.width as u32,
        kernel: pair(window.kernel),
        stride: pair(window.stride),
        padding: pair(window.padding),
    }
}

/// Where the values of a parameter lie.
#[derive(Debug, Clone, Copy)]
enum At {
    Weight(Convolution),
    /// A row after the weights, and the first channel in it.
    Row(usize, usize),
}

const NORM_WEIGHT: usize = 0;
const NORM_BIAS: usize = 1;
const BIAS: usize = 2;
/// Rows after the weights.
pub(super) const ROWS: usize = 3;

/// The least that a step computes and moves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Floor {
    /// Floating-point operations of convolutions and linear layers, two for each product.
    pub operations: f64,
    /// Bytes that the passes of the plan read and write when every map is read once for each pass that needs it.
    pub bytes: f64,
}

impl Plan {
    pub(super) fn new(graph: &Graph, precision: Precision) -> Self {
        let mut plan = Self {
            lane: lane(precision),
            width: width(precision),
            input: Map::of(&graph.nodes[0].output),
            nodes: Vec::new(),
            schedule: Schedule::default(),
            stages: stages(graph),
            places: Places::default(),
            weights: 0,
            channels: 0,
        };
        let stages = std::mem::take(&mut plan.stages);
        for stage in &stages {
            plan.push(stage);
        }
        let lens: Vec<usize> = stages.iter().map(|stage| plan.len(stage.output)).collect();
        plan.schedule = Schedule::new(&stages, &lens, false);
        if plan.schedule.buffers.is_empty() {
            // The loss computes a gradient of the logits, whether or not anything needs it.
            plan.schedule.buffers.push(plan.len(plan.input));
        }
        plan.stages = stages;
        // Vectors of eight, whatever the value's type.
        plan.channels = plan.channels.next_multiple_of(8);
        plan.weights = plan.weights.next_multiple_of(8);
        plan
    }

    fn push(&mut self, stage: &Stage) {
        let kind = match stage.kind {
            StageKind::Block(ref layers) => Kind::Block(self.block(layers, stage.inputs[0])),
            StageKind::Dropout { p, layer } => Kind::Dropout { p, layer },
            StageKind::GlobalAverage => Kind::Average,
            StageKind::Flatten => Kind::Flatten,
            StageKind::MaxPool(window) => Kind::MaxPool(window),
            StageKind::AveragePool { window, count_include_pad } => {
                Kind::AveragePool { window, include_padding: count_include_pad }
            }
            // The average of one pixel.
            StageKind::Subsample(stride) => Kind::AveragePool {
                window: Window { kernel: [1, 1], stride, padding: [0, 0] },
                include_padding: true,
            },
            StageKind::Scale(factor) => Kind::Scale(factor),
            StageKind::PadChannels { before } => Kind::PadChannels { before },
            StageKind::Sum { relu } => Kind::Sum { relu },
            StageKind::Concat => Kind::Concat,
            StageKind::Multiply => Kind::Multiply,
        };
        self.nodes.push(Node {
            name: stage.name.clone(),
            kind,
            sources: stage.sources.clone(),
            inputs: stage.inputs.clone(),
            output: stage.output,
            macs: stage.macs,
        });
    }

    fn block(&mut self, layers: &BlockLayers, input: Map) -> Block {
        let at = self.channels;
        let (mut results, mut border) = (input, 0);
        let convolution = layers.convolution.as_ref().map(|layer| {
            let convolution = Convolution::new(layer, self.lane, self.weights);
            self.weights += convolution.len().next_multiple_of(8);
            results = Map { channels: layer.out_channels, ..input };
            if convolution.method == Method::Product {
                border = layer.padding[0];
            } else {
                let reach = |side: usize, axis: usize| {
                    (side + 2 * layer.padding[axis] - layer.kernel[axis]) / layer.stride[axis] + 1
                };
                (results.height, results.width) = (reach(input.height, 0), reach(input.width, 1));
            }
            convolution
        });
        for (role, name, shape) in layers.parameters() {
            let place = match (role, convolution) {
                (Role::Weight, Some(convolution)) => At::Weight(convolution),
                (Role::Weight | Role::Bias, _) => At::Row(BIAS, at),
                (Role::NormWeight, _) => At::Row(NORM_WEIGHT, at),
                (Role::NormBias, _) => At::Row(NORM_BIAS, at),
            };
            self.places.add(name, shape, place);
        }
        self.channels += self.padded(results.channels);
        let (norm, activation, pool) = (layers.norm.clone(), layers.activation, layers.pool);
        Block { convolution, norm, activation, pool, results, border, at }
    }

    pub(super) fn padded(&self, channels: usize) -> usize {
        channels.next_multiple_of(self.lane)
    }

    /// Values of an image's map, padding included.
    pub(super) fn len(&self, map: Map) -> usize {
        map.pixels() * self.padded(map.channels)
    }

    /// The map after the last node: the logits.
    pub(super) fn output(&self) -> Map {
        self.nodes.last().map_or(self.input, |node| node.output)
    }

    /// Values of the whole arena.
    pub(super) fn parameters(&self) -> usize {
        self.weights + ROWS * self.channels
    }

    /// Values of BatchNorm's statistics: a row of running means, a row of running variances.
    pub(super) fn statistics(&self) -> usize {
        2 * self.channels
    }

    /// Offset of a row after the weights, in values from the arena's start.
    pub(super) fn norm_weights(&self) -> usize {
        self.weights + NORM_WEIGHT * self.channels
    }

    pub(super) fn norm_biases(&self) -> usize {
        self.weights + NORM_BIAS * self.channels
    }

    pub(super) fn biases(&self) -> usize {
        self.weights + BIAS * self.channels
    }

    /// The largest map of an image.
    fn largest(&self) -> usize {
        let of = |node: &Node| {
            let results = match &node.kind {
                Kind::Block(block) => self.len(block.results),
                _ => 0,
            };
            results.max(self.len(node.output))
        };
        self.nodes.iter().map(of).max().unwrap_or(0).max(self.len(self.input))
    }

    /// Values per image of what a node computes in the backward pass, between the gradients in the schedule: the gradient of a
    /// convolution's results, the product of factors.
    pub(super) fn scratch(&self) -> usize {
        let of = |node: &Node| match &node.kind {
            Kind::Block(block) if block.convolution.is_some() && block.changes_gradient() => {
                self.len(block.results)
            }
            Kind::Multiply if node.sources.len() > 2 => self.len(node.output),
            _ => 0,
        };
        self.nodes.iter().map(of).max().unwrap_or(0)
    }

    /// Floats of the largest array of partial sums for a batch; the loss has one for each image.
    pub(super) fn partials(&self, n: usize) -> usize {
        let blocks = self.nodes.iter().filter_map(|node| match &node.kind {
            Kind::Block(block) if block.sums_gradient() => Some(block.shape(n, self.lane)),
            _ => None,
        });
        let sums = blocks.flat_map(|shape| {
            [shape.results(), shape.outputs()]
                .map(|rows| Tiles::new(rows, shape.channels as usize, self.lane).0.partials())
        });
        let weights = self.nodes.iter().filter_map(|node| match &node.kind {
            Kind::Block(Block { convolution: Some(convolution), results, .. })
                if convolution.method != Method::Product =>
            {
                let (chunks, _) = Chunks::new(convolution.len(), n * results.pixels());
                Some(chunks.chunks as usize * convolution.len())
            }
            _ => None,
        });
        let rows = n * size_of::<RowLoss>() / size_of::<f32>();
        sums.chain(weights).chain([rows]).max().unwrap_or(0)
    }

    /// Rejects a batch on which BatchNorm has no variance, or whose values a kernel could not count.
    pub(super) fn check(&self, n: usize, training: bool) -> Result<(), EngineError> {
        if n.saturating_mul(self.largest()) > i32::MAX as usize {
            return Err(EngineError::Batch(format!(
                "{n} images are more than a map can hold; give smaller batches"
            )));
        }
        if training { check_training(&self.stages, n) } else { Ok(()) }
    }

    /// The least that a step of `n` images computes and moves; `arenas` is the number of floats that it reads or writes per parameter.
    pub(super) fn floor(&self, n: usize, training: bool, arenas: usize) -> Floor {
        let mut floor = Floor { operations: 0.0, bytes: 0.0 };
        let map = |map: Map| (n * self.len(map) * self.width) as f64;
        for (node, gradients) in self.nodes.iter().zip(&self.schedule.stages) {
            let input: f64 = node.inputs.iter().map(|input| map(*input)).sum();
            let output = map(node.output);
            let backward = training && gradients.output.is_some();
            let wanted = backward && gradients.inputs.iter().any(|flow| *flow != Flow::None);
            let Kind::Block(block) = &node.kind else {
                floor.bytes += (input + output) * if wanted { 2.0 } else { 1.0 };
                continue;
            };
            let results = map(block.results);
            let weights = block.convolution.map_or(0.0, |all| (all.len() * self.width) as f64);
            let passes = 1.0 + f64::from(u8::from(backward)) + f64::from(u8::from(wanted));
            floor.operations += 2.0 * passes * node.macs as f64 * n as f64;
            if block.convolution.is_some() {
                // Forward; the weights' gradient; the input's.
                floor.bytes += passes * (input + weights + results);
            }
            // Results to output.
            floor.bytes += results + output;
            if training && block.norm.is_some() {
                floor.bytes += results;
            }
            if backward {
                let sums = if block.sums_gradient() { results + output } else { 0.0 };
                let gradient = if block.changes_gradient() { 2.0 * results + output } else { 0.0 };
                floor.bytes += sums + gradient;
            }
        }
        if training {
            floor.bytes += (arenas * size_of::<f32>() * self.parameters()) as f64;
        }
        floor
    }

    /// The groups that parameters belong to, each once; and, if there are several, the group of each four values of the arena.
    pub(super) fn groups(&self, recipe: &Recipe) -> (Vec<Group>, Option<Vec<u32>>) {
        let mut groups = Vec::new();
        let mut of_fours = vec![0; self.parameters() / 4];
        for place in self.places.iter() {
            let group = recipe.group(&place.name, place.shape.len());
            let index = groups.iter().position(|other| *other == group).unwrap_or_else(|| {
                groups.push(group);
                groups.len() - 1
            });
            let (start, len) = match place.at {
                At::Weight(convolution) => (convolution.weight, convolution.len()),
                At::Row(row, at) => (self.weights + row * self.channels + at, place.shape.iter().product()),
            };
            of_fours[start / 4..(start + len).div_ceil(4)].fill(index as u32);
        }
        let several = groups.len() > 1;
        (groups, several.then_some(of_fours))
    }

    /// Values of the arena by PyTorch's names and in its layouts.
    pub(super) fn export(&self, arena: &[f32]) -> BTreeMap<String, Array> {
        self.places.export(|place| {
            let mut values = Vec::with_capacity(place.shape.iter().product());
            self.each_position(place, |position| values.push(arena[position]));
            values
        })
    }

    /// The inverse of [`Plan::export`], for checked arrays; the padding is zero.
    pub(super) fn import(&self, arrays: &BTreeMap<String, Array>) -> Vec<f32> {
        let mut arena = vec![0.0; self.parameters()];
        self.places.import(arrays, |place, values| {
            let mut values = values.iter();
            self.each_position(place, |position| {
                if let Some(value) = values.next() {
                    arena[position] = *value;
                }
            });
        });
        arena
    }

    /// Where in the arena the elements of PyTorch's array lie, in its order.
    fn each_position(&self, place: &Place<At>, mut visit: impl FnMut(usize)) {
        match place.at {
            At::Row(row, at) => {
                let start = self.weights + row * self.channels + at;
                (start..start + place.shape[0]).for_each(visit);
            }
            At::Weight(convolution) => {
                let taps = convolution.taps();
                // Of (out, in, rows, columns).
                for out in 0..place.shape[0] {
                    for channel in 0..place.shape[1] {
                        for tap in 0..taps {
                            let own = match convolution.method {
                                Method::Depthwise => tap * convolution.out_channels + out,
                                _ => (out * taps + tap) * convolution.in_group + channel,
                            };
                            visit(convolution.weight + own);
                        }
                    }
                }
            }
        }
    }

    /// BatchNorms, and the first of each one's channels.
    pub(super) fn norms(&self) -> impl Iterator<Item = (&NormLayer, usize)> {
        self.nodes.iter().filter_map(|node| match &node.kind {
            Kind::Block(block) => block.norm.as_ref().map(|norm| (norm, block.at)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointwise_network::Network;
    use pointwise_recipe::{Adam, ParameterGroup};
    use pointwise_weights::State;

    const NETWORKS: [&str; 3] = ["alexnet_plain", "alexnet", "nin"];

    fn by_adam() -> Recipe {
        Recipe::new(1, 1, Adam::default())
    }

    fn nin() -> Graph {
        Network::by_name("nin").unwrap().graph().unwrap()
    }

    fn plans() -> Vec<(&'static str, Graph, Precision, Plan)> {
        let networks = NETWORKS.map(|name| (name, Network::by_name(name).unwrap().graph().unwrap()));
        networks
            .into_iter()
            .flat_map(|(name, graph)| {
                [Precision::F32, Precision::Bf16].map(|precision| {
                    let plan = Plan::new(&graph, precision);
                    (name, graph.clone(), precision, plan)
                })
            })
            .collect()
    }

    /// Convolutions of every method, in both precisions or in one; a norm without a weight.
    fn grouped() -> Graph {
        let text = r#"
            name = "grouped"
            input = [3, 8, 8]
            layers = [
                { Conv2d = { out_channels = 24, kernel_size = [3, 1], padding = [0, 1], stride = 2 } },
                { Conv2d = { out_channels = 24, kernel_size = 3, padding = 1, groups = 24 } },
                { BatchNorm2d = { weight = false } },
                { Conv2d = { out_channels = 48, kernel_size = 1, groups = 6 } },
                { Conv2d = { out_channels = 18, kernel_size = 1, groups = 2, bias = false } },
                { Conv2d = { out_channels = 18, kernel_size = 1, padding = [0, 1] } },
                "AdaptiveAvgPool2d", "Flatten", { Linear = { out_features = 5 } },
            ]"#;
        Network::from_toml(text).unwrap().graph().unwrap()
    }

    #[test]
    fn each_convolution_has_its_method() {
        use Method::{Depthwise, Grouped, Library, Product};
        for (precision, by_fours) in [(Precision::F32, Library), (Precision::Bf16, Grouped)] {
            let plan = Plan::new(&grouped(), precision);
            let methods: Vec<Method> = plan
                .nodes
                .iter()
                .filter_map(|node| match &node.kind {
                    Kind::Block(block) => block.convolution.map(|convolution| convolution.method),
                    _ => None,
                })
                .collect();
            assert_eq!(methods, [Library, Depthwise, by_fours, Grouped, Library, Product], "{precision}");
        }
    }

    #[test]
    fn parameters_go_in_and_out_unchanged() {
        let others = [Precision::F32, Precision::Bf16]
            .map(|precision| ("grouped", grouped(), precision, Plan::new(&grouped(), precision)));
        for (name, graph, precision, plan) in plans().into_iter().chain(others) {
            let arrays = State::initial(&graph, 1).parameters;
            let arena = plan.import(&arrays);
            assert_eq!(plan.export(&arena), arrays, "{name} {precision}");
            // Nothing overlaps.
            let numbers: usize = arrays.values().map(|array| array.values.len()).sum();
            let ones = arrays.into_iter().map(|(name, mut array)| {
                array.values.fill(1.0);
                (name, array)
            });
            assert_eq!(plan.import(&ones.collect()).iter().sum::<f32>() as usize, numbers);
        }
    }

    #[test]
    fn every_number_is_of_its_parameters_group() {
        let recipe = Recipe {
            parameter_groups: vec![
                ParameterGroup { names: Some("0.*".to_owned()), lr_factor: 0.5, ..ParameterGroup::default() },
                ParameterGroup { max_dims: Some(1), weight_decay: Some(0.0), ..ParameterGroup::default() },
                ParameterGroup { names: Some("4.*".to_owned()), lr_factor: 0.5, ..ParameterGroup::default() },
            ],
            ..by_adam()
        };
        let graph = grouped();
        for precision in [Precision::F32, Precision::Bf16] {
            let plan = Plan::new(&graph, precision);
            let (groups, of_fours) = plan.groups(&recipe);
            let of_fours = of_fours.unwrap();
            let own: Vec<_> = graph.parameters().iter().collect();
            let mut arrays = State::initial(&graph, 1).parameters;
            for (number, own) in own.iter().enumerate() {
                arrays.get_mut(&own.name).unwrap().values.fill((number + 1) as f32);
            }
            for (at, number) in
                plan.import(&arrays).into_iter().enumerate().filter(|(_, number)| *number > 0.0)
            {
                let own = own[number as usize - 1];
                let group = groups[of_fours[at / 4] as usize];
                let expected = recipe.group(&own.name, own.shape.len());
                assert_eq!(group, expected, "{precision}: {} at {at}", own.name);
            }
            let whole = by_adam();
            assert_eq!(plan.groups(&whole), (vec![whole.group("x", 1)], None));
        }
    }

    #[test]
    fn a_weight_lies_by_pixels_then_channels() {
        let (graph, plan) = (nin(), Plan::new(&nin(), Precision::F32));
        let mut arrays = State::initial(&graph, 1).parameters;
        arrays.values_mut().for_each(|array| array.values.fill(0.0));
        // Output 2, input 1, row 1, column 2 of (64, 3, 3, 3).
        arrays.get_mut("features.0.weight").unwrap().values[((2 * 3 + 1) * 3 + 1) * 3 + 2] = 1.0;
        let arena = plan.import(&arrays);
        // Inputs are padded to four.
        assert_eq!(arena.iter().position(|x| *x == 1.0), Some(((2 * 3 + 1) * 3 + 2) * 4 + 1));
    }

    #[test]
    fn a_chain_has_two_gradients_and_one_between() {
        for (name, _, precision, plan) in plans() {
            assert_eq!(plan.schedule.buffers.len(), 2, "{name} {precision}");
            assert!(plan.schedule.buffers.iter().all(|len| *len <= plan.largest()));
            assert!(plan.scratch() <= plan.largest());
        }
    }

    #[test]
    fn maps_follow_from_each_other() {
        for (name, graph, precision, plan) in plans() {
            let mut map = plan.input;
            for node in &plan.nodes {
                assert_eq!(node.inputs, [map], "{} {precision} {}", name, node.name);
                map = node.output;
                if let Kind::Block(block) = &node.kind {
                    let shape = block.shape(5, plan.lane);
                    assert_eq!(
                        shape.outputs() * shape.channels as usize,
                        5 * plan.len(node.output),
                        "{}",
                        node.name
                    );
                    assert_eq!(shape.results() * shape.channels as usize, 5 * plan.len(block.results));
                    assert!(shape.windows() >= shape.outputs());
                }
            }
            assert_eq!((map.pixels(), map.channels), (1, graph.classes()));
            assert!(plan.weights.is_multiple_of(8) && plan.channels.is_multiple_of(8));
        }
    }

    #[test]
    fn blocks_hold_what_follows_a_convolution() {
        let plan = Plan::new(&nin(), Precision::F32);
        let kinds: Vec<(&str, usize, bool)> = plan
            .nodes
            .iter()
            .map(|node| match &node.kind {
                Kind::Block(block) => (node.name.as_str(), block.border, block.pool),
                _ => (node.name.as_str(), 0, false),
            })
            .collect();
        assert_eq!(kinds[0], ("features.0-3", 0, true));
        assert_eq!(kinds[2], ("features.6-7", 1, false));
        assert_eq!(kinds[3], ("features.8-11", 1, true));
        assert_eq!(kinds.last().unwrap().0, "head.1");
    }

    #[test]
    fn the_floor_counts_every_product() {
        for name in NETWORKS {
            let graph = Network::by_name(name).unwrap().graph().unwrap();
            let plan = Plan::new(&graph, Precision::F32);
            let macs = graph.macs() as f64;
            assert_eq!(plan.floor(10, false, 7).operations, 20.0 * macs, "{name}");
            // The first layer's input needs no gradient.
            let first = plan.nodes[0].macs as f64;
            assert_eq!(plan.floor(10, true, 7).operations, 20.0 * (3.0 * macs - first), "{name}");
            let half = Plan::new(&graph, Precision::Bf16);
            let (f32, bf16) = (plan.floor(126, false, 7).bytes, half.floor(126, false, 7).bytes);
            assert!(bf16 < 0.6 * f32 && bf16 > 0.45 * f32, "{name}: {bf16} of {f32}");
        }
    }

    #[test]
    fn batches_that_kernels_cannot_count_are_refused() {
        let plan = Plan::new(&nin(), Precision::F32);
        assert!(plan.check(126, true).is_ok());
        let error = plan.check(1 << 20, true).unwrap_err().to_string();
        assert!(error.contains("smaller batches"), "{error}");
    }
}
