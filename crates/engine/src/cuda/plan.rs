//! Where everything lies on the GPU and how large it is: no device is needed to make a plan.

use super::launch::{Shape, Tiles};
use crate::error::EngineError;
use crate::kind::EngineKind;
use crate::places::{Place, Places, Role};
use crate::precision::Precision;
use crate::stage::{BlockLayers, Map, Source, Stage, StageKind, check_training, stages};
use crate::state::Array;
use pointwise_network::{Activation, BatchNorm2d, Graph};
use std::collections::BTreeMap;

/// Numbers in a vector of 16 bytes: channels are padded to a multiple of it.
pub(super) fn lane(precision: Precision) -> usize {
    match precision {
        Precision::F32 | Precision::Tf32 => 4,
        Precision::Bf16 => 8,
    }
}

/// Bytes of a number on the way through the network.
pub(super) fn width(precision: Precision) -> usize {
    16 / lane(precision)
}

/// A network laid out.
///
/// Parameters lie in one arena: first the weights of convolutions and linear layers, each `(out, rows, columns, in)` with both
/// channel counts padded; then three rows of `channels` numbers: BatchNorm's weights, its biases, the convolutions'
/// biases. A block has its channels from `at` on in each row, and in every other array that has a number for each channel.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) lane: usize,
    width: usize,
    pub(super) input: Map,
    pub(super) nodes: Vec<Node>,
    stages: Vec<Stage>,
    places: Places<At>,
    /// Numbers of the arena that are weights.
    pub(super) weights: usize,
    /// Numbers in each row behind the weights.
    pub(super) channels: usize,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) input: Map,
    pub(super) output: Map,
    macs: usize,
}

#[derive(Debug)]
pub(super) enum Kind {
    Block(Block),
    Dropout { p: f64, layer: u32 },
    Average,
    Flatten,
}

/// A convolution with BatchNorm or its bias, ReLU and pool; each may be missing.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) convolution: Option<Convolution>,
    /// Whether BatchNorm follows; then the path of its parameters.
    pub(super) norm: Option<String>,
    pub(super) relu: bool,
    pub(super) pool: bool,
    /// What the convolution makes, or, without one, the input. Of a padded pointwise convolution the inner map alone: in the
    /// border, `border` pixels on each side, every product is with zero.
    pub(super) results: Map,
    pub(super) border: usize,
    /// First of the block's channels.
    pub(super) at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Convolution {
    /// Padded.
    pub(super) in_channels: usize,
    /// Padded.
    pub(super) out_channels: usize,
    pub(super) kernel: usize,
    pub(super) padding: usize,
    /// First of the weights.
    pub(super) weight: usize,
}

impl Convolution {
    /// A 1x1 convolution is a matrix product of pixels and weights.
    pub(super) fn is_product(&self) -> bool {
        self.kernel == 1
    }

    fn len(&self) -> usize {
        self.out_channels * self.kernel * self.kernel * self.in_channels
    }
}

impl Block {
    pub(super) fn shape(&self, n: usize, lane: usize) -> Shape {
        let side = 2 * self.border;
        let (height, width) = (self.results.height + side, self.results.width + side);
        let shrink = if self.pool { 2 } else { 1 };
        Shape {
            n: n as u32,
            h: self.results.height as u32,
            w: self.results.width as u32,
            border: self.border as u32,
            height: height as u32,
            width: width as u32,
            out_height: (height / shrink) as u32,
            out_width: (width / shrink) as u32,
            channels: self.results.channels.next_multiple_of(lane) as u32,
            relu: u32::from(self.relu),
            pool: u32::from(self.pool),
        }
    }

    /// Whether the gradient of the results is another than that of the output.
    pub(super) fn changes_gradient(&self) -> bool {
        self.norm.is_some() || self.relu || self.pool || self.border > 0
    }

    /// Whether a parameter takes its gradient from sums over the map.
    pub(super) fn sums_gradient(&self) -> bool {
        self.norm.is_some() || self.convolution.is_some()
    }
}

/// Where the numbers of a parameter lie.
#[derive(Debug, Clone, Copy)]
enum At {
    Weight(Convolution),
    /// A row behind the weights, and the first channel in it.
    Row(usize, usize),
}

const NORM_WEIGHT: usize = 0;
const NORM_BIAS: usize = 1;
const BIAS: usize = 2;
/// Rows behind the weights.
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
    /// # Errors
    /// [`EngineError::Unsupported`] for a layer or composition that this engine does not compute.
    pub(super) fn new(graph: &Graph, precision: Precision) -> Result<Self, EngineError> {
        let mut plan = Self {
            lane: lane(precision),
            width: width(precision),
            input: Map::of(&graph.nodes[0].output),
            nodes: Vec::new(),
            stages: Vec::new(),
            places: Places::default(),
            weights: 0,
            channels: 0,
        };
        let stages = stages(graph);
        for (at, stage) in stages.iter().enumerate() {
            plan.push(at, stage)?;
        }
        plan.stages = stages;
        // Vectors of eight, whatever the number's type.
        plan.channels = plan.channels.next_multiple_of(8);
        plan.weights = plan.weights.next_multiple_of(8);
        Ok(plan)
    }

    fn push(&mut self, at: usize, stage: &Stage) -> Result<(), EngineError> {
        let refused = |what: &str| {
            Err(EngineError::Unsupported {
                engine: EngineKind::Cuda,
                what: format!("{what} ({})", stage.name),
                mend: "use `--engine cpu`".to_owned(),
            })
        };
        if stage.sources.len() != 1 {
            return refused(stage.kind.name());
        }
        let previous = at.checked_sub(1).map_or(Source::Images, Source::Stage);
        if stage.sources != [previous] {
            return refused("a layer that does not read the one before it");
        }
        let kind = match &stage.kind {
            StageKind::Block(layers) => {
                if let Some(convolution) = &layers.convolution {
                    let [kernel, columns] = convolution.kernel;
                    let plain = convolution.stride == [1, 1]
                        && convolution.groups == 1
                        && convolution.padding[0] == convolution.padding[1]
                        && kernel == columns
                        && convolution.bias;
                    if !plain {
                        return refused("convolutions other than square ones of stride 1 with a bias");
                    }
                }
                if layers.norm.as_ref().is_some_and(|norm| {
                    !(norm.weight && norm.bias)
                        || norm.eps != BatchNorm2d::EPS
                        || norm.momentum != BatchNorm2d::MOMENTUM
                }) {
                    return refused("BatchNorm2d with other arguments than PyTorch's defaults");
                }
                if layers.activation.is_some_and(|activation| activation != Activation::Relu) {
                    return refused("activations other than ReLU");
                }
                Kind::Block(self.block(layers, stage.inputs[0]))
            }
            &StageKind::Dropout { p, layer } => Kind::Dropout { p, layer },
            StageKind::GlobalAverage => Kind::Average,
            StageKind::Flatten => Kind::Flatten,
            other => return refused(other.name()),
        };
        let (name, macs) = (stage.name.clone(), stage.macs);
        self.nodes.push(Node { name, kind, input: stage.inputs[0], output: stage.output, macs });
        Ok(())
    }

    fn block(&mut self, layers: &BlockLayers, input: Map) -> Block {
        let at = self.channels;
        let (mut results, mut border) = (input, 0);
        let convolution = layers.convolution.as_ref().map(|layer| {
            let ([kernel, _], [padding, _]) = (layer.kernel, layer.padding);
            let convolution = Convolution {
                in_channels: self.padded(layer.in_channels),
                out_channels: self.padded(layer.out_channels),
                kernel,
                padding,
                weight: self.weights,
            };
            self.weights += convolution.len().next_multiple_of(8);
            let grown = |side: usize| side + 2 * padding + 1 - kernel;
            (results, border) = if convolution.is_product() {
                (Map { channels: layer.out_channels, ..input }, padding)
            } else {
                let (height, width) = (grown(input.height), grown(input.width));
                (Map { height, width, channels: layer.out_channels }, 0)
            };
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
        let norm = layers.norm.as_ref().map(|norm| norm.path.clone());
        let relu = layers.activation.is_some();
        Block { convolution, norm, relu, pool: layers.pool, results, border, at }
    }

    pub(super) fn padded(&self, channels: usize) -> usize {
        channels.next_multiple_of(self.lane)
    }

    /// Numbers of an image's map, padding included.
    pub(super) fn len(&self, map: Map) -> usize {
        map.pixels() * self.padded(map.channels)
    }

    /// The map behind the last node: the logits.
    pub(super) fn output(&self) -> Map {
        self.nodes.last().map_or(self.input, |node| node.output)
    }

    /// Numbers of the whole arena.
    pub(super) fn parameters(&self) -> usize {
        self.weights + ROWS * self.channels
    }

    /// Place of a row behind the weights, as a number of numbers from the arena's start.
    pub(super) fn norm_weights(&self) -> usize {
        self.weights + NORM_WEIGHT * self.channels
    }

    pub(super) fn norm_biases(&self) -> usize {
        self.weights + NORM_BIAS * self.channels
    }

    pub(super) fn biases(&self) -> usize {
        self.weights + BIAS * self.channels
    }

    /// The largest map of an image that is a gradient.
    pub(super) fn largest(&self) -> usize {
        let of = |node: &Node| {
            let results = match &node.kind {
                Kind::Block(block) => self.len(block.results),
                _ => 0,
            };
            results.max(self.len(node.output)).max(self.len(node.input))
        };
        self.nodes.iter().map(of).max().unwrap_or(0).max(self.len(self.input))
    }

    /// Floats of the largest array of partial sums for a batch.
    pub(super) fn partials(&self, n: usize) -> usize {
        let blocks = self.nodes.iter().filter_map(|node| match &node.kind {
            Kind::Block(block) if block.sums_gradient() => Some(block.shape(n, self.lane)),
            _ => None,
        });
        blocks
            .flat_map(|shape| {
                [shape.results(), shape.outputs()]
                    .map(|rows| Tiles::new(rows, shape.channels as usize, self.lane).0.partials())
            })
            .max()
            .unwrap_or(0)
    }

    /// Refuses a batch on which BatchNorm has no variance, or of which a kernel could not count the numbers.
    pub(super) fn check(&self, n: usize, training: bool) -> Result<(), EngineError> {
        if n.saturating_mul(self.largest()) > i32::MAX as usize {
            return Err(EngineError::Batch(format!(
                "{n} images are more than a map can hold; give smaller batches"
            )));
        }
        if training { check_training(&self.stages, n) } else { Ok(()) }
    }

    /// What a step of `n` images takes at least.
    pub(super) fn floor(&self, n: usize, training: bool) -> Floor {
        let mut floor = Floor { operations: 0.0, bytes: 0.0 };
        let map = |map: Map| (n * self.len(map) * self.width) as f64;
        for (at, node) in self.nodes.iter().enumerate() {
            let (input, output) = (map(node.input), map(node.output));
            let first = at == 0;
            let Kind::Block(block) = &node.kind else {
                floor.bytes += (input + output) * if training && !first { 2.0 } else { 1.0 };
                continue;
            };
            let results = map(block.results);
            let weights = block.convolution.map_or(0.0, |all| (all.len() * self.width) as f64);
            let passes = match (training, first) {
                (false, _) => 1.0,
                (true, true) => 2.0,
                (true, false) => 3.0,
            };
            floor.operations += 2.0 * passes * node.macs as f64 * n as f64;
            if block.convolution.is_some() {
                // Forward; the weights' gradient; the input's.
                floor.bytes += passes * (input + weights + results);
            }
            // Results to output.
            floor.bytes += results + output;
            if training {
                let normed = if block.norm.is_some() { results } else { 0.0 };
                let sums = if block.sums_gradient() { results + output } else { 0.0 };
                let gradient = if block.changes_gradient() { 2.0 * results + output } else { 0.0 };
                floor.bytes += normed + sums + gradient;
            }
        }
        if training {
            // Adam reads and writes values and moments and reads the gradients.
            floor.bytes += (7 * size_of::<f32>() * self.parameters()) as f64;
        }
        floor
    }

    /// Numbers of the arena by PyTorch's names and in its layouts.
    pub(super) fn export(&self, arena: &[f32]) -> BTreeMap<String, Array> {
        self.places.export(|place| {
            let len = place.shape.iter().product();
            (0..len).map(|i| arena[self.position(place, i)]).collect()
        })
    }

    /// The inverse of [`Plan::export`], for arrays that were checked; what is padding is zero.
    pub(super) fn import(&self, arrays: &BTreeMap<String, Array>) -> Vec<f32> {
        let mut arena = vec![0.0; self.parameters()];
        self.places.import(arrays, |place, values| {
            for (i, value) in values.iter().enumerate() {
                arena[self.position(place, i)] = *value;
            }
        });
        arena
    }

    /// Where in the arena element `i` of PyTorch's array lies.
    fn position(&self, place: &Place<At>, i: usize) -> usize {
        match place.at {
            At::Row(row, at) => self.weights + row * self.channels + at + i,
            At::Weight(convolution) => {
                let taps = convolution.kernel * convolution.kernel;
                // From (out, in, rows, columns).
                let (tap, channel, out) = (i % taps, i / taps % place.shape[1], i / taps / place.shape[1]);
                convolution.weight + (out * taps + tap) * convolution.in_channels + channel
            }
        }
    }

    /// BatchNorm's paths and the first of each one's channels.
    pub(super) fn norms(&self) -> impl Iterator<Item = (&str, usize, usize)> {
        self.nodes.iter().filter_map(|node| match &node.kind {
            Kind::Block(block) => block.norm.as_deref().map(|path| (path, block.at, block.results.channels)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;
    use pointwise_network::Network;

    fn nin() -> Graph {
        Network::by_name("nin").unwrap().graph().unwrap()
    }

    fn plans() -> Vec<(&'static str, Graph, Precision, Plan)> {
        let networks = Network::STUDY.map(|name| (name, Network::by_name(name).unwrap().graph().unwrap()));
        networks
            .into_iter()
            .flat_map(|(name, graph)| {
                [Precision::F32, Precision::Bf16].map(|precision| {
                    let plan = Plan::new(&graph, precision).unwrap();
                    (name, graph.clone(), precision, plan)
                })
            })
            .collect()
    }

    #[test]
    fn parameters_go_in_and_out_unchanged() {
        for (name, graph, precision, plan) in plans() {
            let arrays = State::initial(&graph, 1).parameters;
            let arena = plan.import(&arrays);
            assert_eq!(plan.export(&arena), arrays, "{name} {precision}");
            // Nothing lies on anything else.
            let numbers: usize = arrays.values().map(|array| array.values.len()).sum();
            let ones = arrays.into_iter().map(|(name, mut array)| {
                array.values.fill(1.0);
                (name, array)
            });
            assert_eq!(plan.import(&ones.collect()).iter().sum::<f32>() as usize, numbers);
        }
    }

    #[test]
    fn a_weight_lies_by_pixels_then_channels() {
        let (graph, plan) = (nin(), Plan::new(&nin(), Precision::F32).unwrap());
        let mut arrays = State::initial(&graph, 1).parameters;
        arrays.values_mut().for_each(|array| array.values.fill(0.0));
        // Output 2, input 1, row 1, column 2 of (64, 3, 3, 3).
        arrays.get_mut("features.0.weight").unwrap().values[((2 * 3 + 1) * 3 + 1) * 3 + 2] = 1.0;
        let arena = plan.import(&arrays);
        // Inputs are padded to four.
        assert_eq!(arena.iter().position(|x| *x == 1.0), Some(((2 * 3 + 1) * 3 + 2) * 4 + 1));
    }

    #[test]
    fn maps_follow_from_each_other() {
        for (name, graph, precision, plan) in plans() {
            let mut map = plan.input;
            for node in &plan.nodes {
                assert_eq!(node.input, map, "{} {precision} {}", name, node.name);
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
        let plan = Plan::new(&nin(), Precision::F32).unwrap();
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
        for name in Network::STUDY {
            let graph = Network::by_name(name).unwrap().graph().unwrap();
            let plan = Plan::new(&graph, Precision::F32).unwrap();
            let macs = graph.macs() as f64;
            assert_eq!(plan.floor(10, false).operations, 20.0 * macs, "{name}");
            // The first layer's input needs no gradient.
            let first = plan.nodes[0].macs as f64;
            assert_eq!(plan.floor(10, true).operations, 20.0 * (3.0 * macs - first), "{name}");
            let half = Plan::new(&graph, Precision::Bf16).unwrap();
            let (f32, bf16) = (plan.floor(126, false).bytes, half.floor(126, false).bytes);
            assert!(bf16 < 0.6 * f32 && bf16 > 0.45 * f32, "{name}: {bf16} of {f32}");
        }
    }

    #[test]
    fn batches_that_kernels_cannot_count_are_refused() {
        let plan = Plan::new(&nin(), Precision::F32).unwrap();
        assert!(plan.check(126, true).is_ok());
        let error = plan.check(1 << 20, true).unwrap_err().to_string();
        assert!(error.contains("smaller batches"), "{error}");
    }
}
