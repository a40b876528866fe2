//! A network's stages with their buffers.

use super::block::{Block, BlockInput, Norm, Weighted};
use super::layer::{Inputs, Layer, Operation, Scratch, dropout_factors, len};
use super::memory::Memory;
use super::parameters::Parameters;
use crate::gradients::{Flow, Schedule};
use crate::places::{Export, Places, RunningStatistics, export_statistics, import_statistics};
use crate::stage::check_training;
use crate::{Array, EngineError};
use pointwise_kernels::{
    Activation, Buffer, ConvShape, Convolution, Epilogue, EpilogueShape, InputGradient, Isa, OutOfMemory,
    Workspace, WorkspaceNeed, elementwise, padded, to_channels_last,
};
use pointwise_network::Graph;
use pointwise_network::{BlockLayers, Map, Role, Source, Stage, StageKind, stages};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Seconds spent in a part of the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerTime {
    /// The layers' paths, such as `features.0-3`.
    pub name: String,
    /// How it is computed.
    pub method: String,
    /// Seconds forward.
    pub forward: f64,
    /// Seconds backward.
    pub backward: f64,
    /// Multiply-accumulates of one image's forward pass by the definition of the convolution.
    pub macs: usize,
}

#[derive(Debug)]
struct Node {
    kind: Kind,
    time: LayerTime,
}

#[derive(Debug)]
enum Kind {
    Block(Box<Block>),
    /// `factors` are those of a dropout.
    Layer {
        layer: Box<Layer>,
        /// Empty if the output is recomputed on each read.
        values: Buffer,
        is_stored: bool,
        sources: Vec<Source>,
        factors: Buffer,
    },
}

impl Node {
    /// The stored output, if the node stores it.
    fn values(&self) -> Option<&[f32]> {
        match &self.kind {
            Kind::Layer { values, is_stored: true, .. } => Some(values),
            _ => None,
        }
    }

    /// Writes the output of an image; `reading` contains all nodes before this one.
    fn output(&self, reading: &Reading<'_>, image: usize, output: &mut [f32]) {
        match &self.kind {
            Kind::Block(block) => block.output(others(block, reading.nodes), image, output),
            Kind::Layer { values, is_stored: true, .. } => {
                output.copy_from_slice(&values[image * output.len()..(image + 1) * output.len()]);
            }
            Kind::Layer { layer, sources, .. } => {
                let inputs = Reading { sources, ..*reading };
                layer.forward(&inputs, image, None, reading.scratch, output);
            }
        }
    }

    /// Called for each finished image of the output's gradient.
    fn gradient_finished(&self, before: &[Node], image: usize, gradient: &[f32]) {
        if let Kind::Block(block) = &self.kind {
            block.gradient_finished(others(block, before), image, gradient);
        }
    }
}

/// What a node has access to in a backward pass.
struct BackwardPass<'a> {
    inputs: Reading<'a>,
    stage: &'a Stage,
    /// Number of images.
    images: usize,
    /// The gradient of the output, one image after the other.
    gradient: &'a [f32],
}

impl Node {
    /// Writes the node's share of the gradient of input `which`, and a block's own gradients.
    fn hand_back(
        &mut self,
        which: usize,
        target: InputGradient<'_>,
        pass: &BackwardPass<'_>,
        parameters: &mut Parameters,
        workspace: &mut Workspace,
    ) {
        let BackwardPass { inputs, stage, images, gradient } = pass;
        match &mut self.kind {
            Kind::Block(block) => {
                let source = |image: usize, target: &mut [f32]| inputs.read(0, image, target);
                let others = others(block, inputs.nodes);
                let input = BlockInput { images: *images, source: &source, others };
                block.backward(parameters, input, gradient, Some(target), workspace);
            }
            Kind::Layer { layer, factors, .. } => {
                let (input_len, output_len) = (len(stage.inputs[which]), len(stage.output));
                let dropped = matches!(layer.operation, Operation::Dropout(_));
                let InputGradient { values, add, finished } = target;
                values[..images * input_len]
                    .par_chunks_exact_mut(input_len)
                    .zip(gradient.par_chunks_exact(output_len))
                    .enumerate()
                    .for_each(|(image, (target, gradient))| {
                        let factors = dropped.then(|| &factors[image * output_len..(image + 1) * output_len]);
                        let (place, scratch) = ((image, which), inputs.scratch);
                        if add {
                            layer.add_backward(inputs, place, factors, gradient, scratch, target);
                        } else {
                            layer.backward(inputs, place, factors, gradient, scratch, target);
                        }
                        finished(image, target);
                    });
            }
        }
    }

    /// The gradients of a block's parameters, if its input's gradient is not needed.
    fn own_gradients(
        &mut self,
        pass: &BackwardPass<'_>,
        parameters: &mut Parameters,
        workspace: &mut Workspace,
    ) {
        let BackwardPass { inputs, images, gradient, .. } = pass;
        if let Kind::Block(block) = &mut self.kind {
            let source = |image: usize, target: &mut [f32]| inputs.read(0, image, target);
            let input = BlockInput { images: *images, source: &source, others: others(block, inputs.nodes) };
            block.backward(parameters, input, gradient, None, workspace);
        }
    }
}

/// The stored values that a block without its own works on.
fn others<'a>(block: &Block, before: &'a [Node]) -> Option<&'a [f32]> {
    before[block.results_of?].values()
}

/// What a node reads: images, and the nodes before it.
#[derive(Clone, Copy)]
struct Reading<'a> {
    nodes: &'a [Node],
    sources: &'a [Source],
    images: &'a [f32],
    input: Map,
    scratch: &'a Scratch,
}

impl Inputs for Reading<'_> {
    fn read(&self, which: usize, image: usize, target: &mut [f32]) {
        match self.sources[which] {
            Source::Stage(at) => self.nodes[at].output(self, image, target),
            Source::Images => {
                let len = self.input.channels * self.input.pixels();
                let image = &self.images[image * len..(image + 1) * len];
                to_channels_last(image, self.input.channels, target);
            }
        }
    }

    fn stored(&self, which: usize, image: usize, len: usize) -> Option<&[f32]> {
        let Source::Stage(at) = self.sources[which] else { return None };
        self.nodes[at].values().map(|values| &values[image * len..(image + 1) * len])
    }
}

/// Where a parameter lies in the arena.
#[derive(Debug)]
struct Layout {
    range: Range<usize>,
    /// The convolution that defines a weight's layout.
    convolution: Option<Arc<Convolution>>,
}

impl Places<Layout> {
    /// Values of the arena by PyTorch's names and in its layouts.
    pub(super) fn read(&self, values: &[f32]) -> BTreeMap<String, Array> {
        self.export(|place| {
            let own = &values[place.at.range.clone()];
            match &place.at.convolution {
                Some(convolution) => convolution.export_weight(own),
                None => own[..place.shape[0]].to_vec(),
            }
        })
    }
}

/// The stages, and the buffers that they share.
#[derive(Debug)]
pub(super) struct Plan {
    isa: Isa,
    input: Map,
    stages: Vec<Stage>,
    nodes: Vec<Node>,
    schedule: Schedule,
    /// Shared with snapshots of the state.
    places: Arc<Places<Layout>>,
    batch: usize,
    workspace: Workspace,
    /// Scratch memory to fold BatchNorm's scale into the weights of one convolution.
    folding: Buffer,
    scratch: Scratch,
    /// The results buffer that blocks with passing results share, while none of them holds it.
    passing: Buffer,
    logits: Buffer,
    /// The buffers of the gradients, one after the other; or, until the next backward pass, the weights that evaluation keeps.
    arena: Buffer,
    /// Floats of these weights.
    kept_len: usize,
}

impl Plan {
    /// Groups the layers into stages and assigns every parameter its place.
    pub(super) fn new(graph: &Graph, isa: Isa, seed: u64, parameters: &mut Parameters) -> Self {
        let stages = stages(graph);
        let lens: Vec<usize> = stages.iter().map(|stage| len(stage.output)).collect();
        let mut plan = Self {
            isa,
            input: Map::of(&graph.nodes[0].output),
            schedule: Schedule::new(&stages, &lens, true),
            stages: Vec::new(),
            nodes: Vec::new(),
            places: Arc::default(),
            batch: 0,
            workspace: Workspace::new([]),
            folding: Buffer::empty(),
            scratch: Scratch::default(),
            passing: Buffer::empty(),
            logits: Buffer::empty(),
            arena: Buffer::empty(),
            kept_len: 0,
        };
        let mut places = Places::default();
        for (at, stage) in stages.iter().enumerate() {
            let reader = only_reader(&stages, at);
            let (kind, method) = match &stage.kind {
                StageKind::Block(layers) => {
                    let source = match stage.sources[0] {
                        Source::Stage(at) if plan.nodes[at].values().is_some() => Some(at),
                        _ => None,
                    };
                    let (mut block, method) =
                        plan.block(layers, stage.inputs[0], source, parameters, &mut places);
                    let kept = plan.kept_len;
                    plan.kept_len += padded(block.kept_len());
                    block.kept = kept..kept + block.kept_len();
                    block.is_passing = block.is_plain()
                        && reader.is_some_and(|reader| reader == at + 1 && reads_once(&stages[reader].kind));
                    (Kind::Block(Box::new(block)), method)
                }
                kind => {
                    let layer = Layer::new(isa, kind, &stage.inputs, stage.output, seed);
                    let kind_name = kind.name().to_owned();
                    let is_stored =
                        !layer.is_light() || !reader.is_some_and(|reader| reads_images(&stages[reader].kind));
                    let sources = stage.sources.clone();
                    let (values, factors) = (Buffer::empty(), Buffer::empty());
                    (Kind::Layer { layer: Box::new(layer), values, is_stored, sources, factors }, kind_name)
                }
            };
            let time =
                LayerTime { name: stage.name.clone(), method, forward: 0.0, backward: 0.0, macs: stage.macs };
            plan.nodes.push(Node { kind, time });
        }
        plan.stages = stages;
        plan.places = Arc::new(places);
        plan
    }

    /// The output map of the last stage.
    fn output_map(&self) -> Map {
        self.stages.last().map_or(self.input, |stage| stage.output)
    }

    /// A block with places for its parameters, and its convolution method. `stored` is the node that it reads, if that stores its output.
    fn block(
        &self,
        layers: &BlockLayers,
        input: Map,
        stored: Option<usize>,
        parameters: &mut Parameters,
        places: &mut Places<Layout>,
    ) -> (Block, String) {
        let isa = self.isa;
        let mut method = "in place".to_owned();
        let mut map = (input.height, input.width, input.channels, 0);
        let convolution = layers.convolution.as_ref().map(|layer| {
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
            let convolution = Convolution::new(isa, shape);
            method = convolution.method().to_string();
            let (rows, columns) = shape.stored_map();
            map = (rows, columns, shape.out_channels, shape.border());
            Arc::new(convolution)
        });
        let mut ranges: [Option<Range<usize>>; 4] = [const { None }; 4];
        for (role, name, shape) in layers.parameters() {
            let (len, convolution) = match (&convolution, role) {
                (Some(convolution), Role::Weight) => (convolution.weight_len(), Some(convolution.clone())),
                _ => (padded(shape[0]), None),
            };
            let range = parameters.place(len);
            ranges[role as usize] = Some(range.clone());
            places.add(name, shape, Layout { range, convolution });
        }
        let [weight, bias, norm_weight, norm_bias] = ranges;
        let convolution = convolution.zip(weight);
        let convolution = convolution.map(|(convolution, weight)| Weighted { convolution, weight, bias });
        let norm = layers.norm.clone().map(|layer| Norm {
            running_mean: vec![0.0; padded(layer.channels)],
            running_var: vec![1.0; padded(layer.channels)],
            batches_tracked: 0,
            weight: norm_weight,
            bias: norm_bias,
            layer,
        });
        let (height, width, channels, border) = map;
        let activation = layers.activation.map_or(Activation::Identity, kernel_activation);
        let shape = EpilogueShape { height, width, channels, border, activation, pool: layers.pool };
        let results_of = stored.filter(|_| convolution.is_none());
        (Block::new(isa, convolution, norm, Epilogue::new(isa, shape), results_of), method)
    }

    /// Rejects a batch on which BatchNorm has no variance.
    pub(super) fn check_training(&self, images: usize) -> Result<(), EngineError> {
        check_training(&self.stages, images)
    }

    /// The largest batch that the buffers have room for.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// Allocates buffers for a batch unless they are large enough. An error leaves none allocated.
    pub(super) fn reserve(&mut self, batch: usize) -> Result<(), OutOfMemory> {
        if batch <= self.batch {
            return Ok(());
        }
        self.release();
        for (node, stage) in self.nodes.iter_mut().zip(&self.stages) {
            let len = batch * len(stage.output);
            match &mut node.kind {
                Kind::Block(block) => block.reserve(batch)?,
                Kind::Layer { layer, values, is_stored, factors, .. } => {
                    if *is_stored {
                        *values = Buffer::try_new(len)?;
                    }
                    if matches!(layer.operation, Operation::Dropout(_)) {
                        *factors = Buffer::try_new(len)?;
                    }
                }
            }
        }
        self.workspace = Workspace::try_new(self.needs(batch))?;
        self.folding = Buffer::try_new(self.folding_len())?;
        self.logits = Buffer::try_new(batch * self.logit_stride())?;
        self.passing = Buffer::try_new(batch * self.passing_len())?;
        self.arena = Buffer::try_new(self.kept_len.max(batch * self.gradients_len()))?;
        self.batch = batch;
        Ok(())
    }

    /// Frees the old buffers before new ones are allocated.
    fn release(&mut self) {
        self.batch = 0;
        for node in &mut self.nodes {
            match &mut node.kind {
                Kind::Block(block) => block.release(),
                Kind::Layer { values, factors, .. } => {
                    (*values, *factors) = (Buffer::empty(), Buffer::empty());
                }
            }
        }
        self.workspace = Workspace::new([]);
        self.folding = Buffer::empty();
        self.scratch = Scratch::default();
        self.passing = Buffer::empty();
        self.logits = Buffer::empty();
        self.arena = Buffer::empty();
        self.weights_changed();
    }

    /// Floats per image of the gradient buffers.
    fn gradients_len(&self) -> usize {
        self.schedule.buffers.iter().sum()
    }

    /// Floats of the largest image of results that are passing.
    fn passing_len(&self) -> usize {
        let of = |node: &Node| match &node.kind {
            Kind::Block(block) if block.is_passing => block.epilogue.shape().input_len(),
            _ => 0,
        };
        self.nodes.iter().map(of).max().unwrap_or(0)
    }

    /// Floats of scratch memory for the layers that are not blocks: two images for each thread.
    fn scratch_len(&self) -> usize {
        let of = |node: &Node| match &node.kind {
            Kind::Layer { layer, .. } => layer.largest_image(),
            Kind::Block(_) => 0,
        };
        2 * rayon::current_num_threads() * self.nodes.iter().map(of).max().unwrap_or(0)
    }

    fn folding_len(&self) -> usize {
        let of = |node: &Node| match &node.kind {
            Kind::Block(block) => block.folding_len(),
            Kind::Layer { .. } => 0,
        };
        self.nodes.iter().map(of).max().unwrap_or(0)
    }

    fn needs(&self, batch: usize) -> impl Iterator<Item = WorkspaceNeed> {
        self.nodes.iter().filter_map(move |node| match &node.kind {
            Kind::Block(block) => block.convolution.as_ref().map(|weighted| weighted.convolution.need(batch)),
            Kind::Layer { .. } => None,
        })
    }

    /// The memory for a batch, without allocating it.
    pub(super) fn memory(&self, batch: usize, parameters: usize) -> Memory {
        let bytes = |len: usize| Buffer::bytes_of(batch.saturating_mul(len));
        let gradients = bytes(self.gradients_len());
        let mut memory = Memory {
            parameters,
            weights: Buffer::bytes_of(self.kept_len).saturating_sub(gradients),
            activations: [self.logit_stride(), self.passing_len()]
                .into_iter()
                .fold(gradients, |sum, len| sum.saturating_add(bytes(len))),
            workspace: Workspace::bytes_of(self.needs(batch))
                .saturating_add(Buffer::bytes_of(self.folding_len()))
                .saturating_add(Buffer::bytes_of(self.scratch_len())),
        };
        for (node, stage) in self.nodes.iter().zip(&self.stages) {
            let values = bytes(len(stage.output));
            let activations = match &node.kind {
                Kind::Block(block) => block.bytes(batch),
                Kind::Layer { is_stored: false, .. } => 0,
                Kind::Layer { layer, .. } => match layer.operation {
                    Operation::Dropout(_) => values.saturating_mul(2),
                    _ => values,
                },
            };
            memory.activations = memory.activations.saturating_add(activations);
        }
        memory
    }

    /// Floats of a row of logits.
    pub(super) fn logit_stride(&self) -> usize {
        len(self.output_map())
    }

    /// The logits of the last forward pass, and where their gradient goes.
    pub(super) fn logits_and_gradient(&mut self, images: usize) -> (&[f32], &mut [f32]) {
        let len = images * self.logit_stride();
        // The first planned buffer is that of the last stage.
        (&self.logits[..len], &mut self.arena[..len])
    }

    pub(super) fn weights_changed(&mut self) {
        for node in &mut self.nodes {
            if let Kind::Block(block) = &mut node.kind {
                block.weights_changed();
            }
        }
    }

    /// Forward in training mode of `n` images `(N, C, H, W)`; `step` counts from 0.
    pub(super) fn forward_train(&mut self, parameters: &Parameters, images: &[f32], n: usize, step: u64) {
        self.forward(parameters, images, n, Some(step));
    }

    /// Forward in evaluation mode.
    pub(super) fn forward_evaluate(&mut self, parameters: &Parameters, images: &[f32], n: usize) {
        self.forward(parameters, images, n, None);
    }

    fn forward(&mut self, parameters: &Parameters, images: &[f32], n: usize, step: Option<u64>) {
        let input = self.input;
        let Self { stages, nodes, workspace, folding, scratch, passing, logits, arena, .. } = self;
        let scratch = &*scratch;
        for (at, stage) in stages.iter().enumerate() {
            let start = Instant::now();
            let (before, rest) = nodes.split_at_mut(at);
            let node = &mut rest[0];
            let inputs = Reading { nodes: before, sources: &stage.sources, images, input, scratch };
            match &mut node.kind {
                Kind::Block(block) => {
                    if block.is_passing {
                        std::mem::swap(&mut block.results, passing);
                    }
                    let source = |image: usize, target: &mut [f32]| inputs.read(0, image, target);
                    let input = BlockInput { images: n, source: &source, others: others(block, before) };
                    match step {
                        Some(_) => block.forward_train(parameters, input, workspace),
                        None => {
                            let kept = &mut arena[block.kept.clone()];
                            block.forward_evaluate(parameters, input, kept, folding, workspace);
                        }
                    }
                }
                Kind::Layer { is_stored: false, .. } => {}
                Kind::Layer { layer, values, factors, .. } => {
                    let len = len(stage.output);
                    if let (Operation::Dropout(dropout), Some(step)) = (&mut layer.operation, step) {
                        dropout.step = step;
                        let dropout = *dropout;
                        factors[..n * len].par_chunks_exact_mut(len).enumerate().for_each(
                            |(image, target)| dropout_factors(dropout, stage.output, image, target),
                        );
                    }
                    let dropped = step.is_some() && matches!(layer.operation, Operation::Dropout(_));
                    values[..n * len].par_chunks_exact_mut(len).enumerate().for_each(|(image, target)| {
                        let factors = dropped.then(|| &factors[image * len..(image + 1) * len]);
                        layer.forward(&inputs, image, factors, scratch, target);
                    });
                }
            }
            if let Some(Node { kind: Kind::Block(block), .. }) = before.last_mut()
                && block.is_passing
            {
                std::mem::swap(&mut block.results, passing);
            }
            node.time.forward += start.elapsed().as_secs_f64();
        }
        let last = [stages.len().checked_sub(1).map_or(Source::Images, Source::Stage)];
        let outputs = Reading { nodes, sources: &last, images, input, scratch };
        let len = len(stages.last().map_or(input, |stage| stage.output));
        for (image, target) in logits[..n * len].chunks_exact_mut(len).enumerate() {
            outputs.read(0, image, target);
        }
    }

    /// Gradients of every parameter, from the logits' gradient.
    pub(super) fn backward(&mut self, parameters: &mut Parameters, images: &[f32], n: usize) {
        let (isa, input) = (self.isa, self.input);
        let Self { stages, nodes, workspace, scratch, arena, schedule, .. } = self;
        let scratch = &*scratch;
        let mut rest = &mut arena[..];
        let part = |len: &usize| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(n * len);
            rest = tail;
            part
        };
        let mut gradients: Vec<&mut [f32]> = schedule.buffers.iter().map(part).collect();
        if let (Some((node, before)), Some(stage)) = (nodes.split_last(), stages.last()) {
            let len = len(stage.output);
            for (image, gradient) in gradients[0][..n * len].chunks_exact(len).enumerate() {
                node.gradient_finished(before, image, gradient);
            }
        }
        for (at, stage) in stages.iter().enumerate().rev() {
            let Some(output) = schedule.stages[at].output else { continue };
            let start = Instant::now();
            let (before, rest) = nodes.split_at_mut(at);
            let node = &mut rest[0];
            let output_len = len(stage.output);
            let own = schedule.stages[at].copy.unwrap_or(output);
            // Taken out while the stage runs, so that the other buffers can be borrowed.
            let gradient = std::mem::take(&mut gradients[own]);
            if own != output {
                gradient[..n * output_len].copy_from_slice(&gradients[output][..n * output_len]);
            }
            if let Kind::Layer { layer, values, .. } = &node.kind
                && matches!(layer.operation, Operation::Sum { relu: true })
            {
                gradient[..n * output_len]
                    .par_chunks_exact_mut(output_len)
                    .zip(values.par_chunks_exact(output_len))
                    .for_each(|(gradient, values)| elementwise::relu_mask(isa, values, gradient));
            }
            let inputs = Reading { nodes: before, sources: &stage.sources, images, input, scratch };
            let pass = BackwardPass { inputs, stage, images: n, gradient: &gradient[..n * output_len] };
            let mut flowed = false;
            for (which, flow) in schedule.stages[at].inputs.iter().enumerate() {
                let Source::Stage(source) = stage.sources[which] else { continue };
                let producer = &before[source];
                let (into, from, last) = match *flow {
                    Flow::None => continue,
                    Flow::Share { last } => {
                        if last {
                            pass.gradient.par_chunks_exact(output_len).enumerate().for_each(
                                |(image, gradient)| producer.gradient_finished(before, image, gradient),
                            );
                        }
                        continue;
                    }
                    Flow::Write { into, last } => (into, None, last),
                    Flow::Add { into, from, last } => (into, Some(from), last),
                };
                let target = std::mem::take(&mut gradients[into]);
                let add = from == Some(into);
                let collected: Option<&[f32]> = match from {
                    Some(from) if from == own => Some(gradient),
                    Some(from) if !add => Some(gradients[from]),
                    _ => None,
                };
                let finished = |image: usize, gradient: &mut [f32]| {
                    if let Some(collected) = collected {
                        let len = gradient.len();
                        elementwise::add_assign(isa, gradient, &collected[image * len..(image + 1) * len]);
                    }
                    if last {
                        producer.gradient_finished(before, image, gradient);
                    }
                };
                let input = InputGradient { values: &mut *target, add, finished: &finished };
                node.hand_back(which, input, &pass, parameters, workspace);
                flowed = true;
                gradients[into] = target;
            }
            if !flowed {
                node.own_gradients(&pass, parameters, workspace);
            }
            gradients[own] = gradient;
            node.time.backward += start.elapsed().as_secs_f64();
        }
    }

    pub(super) fn take_times(&mut self) -> Vec<LayerTime> {
        let take = |node: &mut Node| {
            let taken = node.time.clone();
            (node.time.forward, node.time.backward) = (0.0, 0.0);
            taken
        };
        self.nodes.iter_mut().map(take).collect()
    }

    /// Each parameter's name, number of dimensions and range in the arena, in the arena's order.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (&str, usize, Range<usize>)> {
        self.places.iter().map(|place| (place.name.as_str(), place.shape.len(), place.at.range.clone()))
    }

    /// Converts values of the arena to PyTorch's names and layouts.
    pub(super) fn export(&self) -> Export {
        let places = Arc::clone(&self.places);
        Arc::new(move |values| places.read(values))
    }

    /// The inverse of [`Plan::export`], for checked arrays.
    pub(super) fn import(&self, target: &mut [f32], arrays: &BTreeMap<String, Array>) {
        self.places.import(arrays, |place, values| {
            let own = &mut target[place.at.range.clone()];
            match &place.at.convolution {
                Some(convolution) => convolution.import_weight(values, own),
                None => own[..values.len()].copy_from_slice(values),
            }
        });
    }

    /// Running statistics and batches tracked, by PyTorch's names.
    pub(super) fn statistics(&self) -> (BTreeMap<String, Array>, BTreeMap<String, i64>) {
        let norms = self.nodes.iter().filter_map(|node| match &node.kind {
            Kind::Block(block) => block.norm.as_ref(),
            Kind::Layer { .. } => None,
        });
        export_statistics(norms.map(|norm| RunningStatistics {
            path: &norm.layer.path,
            mean: norm.running_mean[..norm.layer.channels].to_vec(),
            variance: norm.running_var[..norm.layer.channels].to_vec(),
            batches_tracked: norm.batches_tracked,
        }))
    }

    pub(super) fn set_statistics(
        &mut self,
        statistics: &BTreeMap<String, Array>,
        tracked: &BTreeMap<String, i64>,
    ) {
        for node in &mut self.nodes {
            let Kind::Block(block) = &mut node.kind else { continue };
            let Some(norm) = &mut block.norm else { continue };
            let (mean, variance, batches) = import_statistics(&norm.layer.path, statistics, tracked);
            norm.running_mean[..mean.len()].copy_from_slice(mean);
            norm.running_var[..variance.len()].copy_from_slice(variance);
            norm.batches_tracked = batches;
        }
    }
}

/// The only stage that reads the output of stage `at`, if there is exactly one and it reads it as a single input.
fn only_reader(stages: &[Stage], at: usize) -> Option<usize> {
    let readers = stages
        .iter()
        .enumerate()
        .flat_map(|(reader, stage)| stage.sources.iter().map(move |source| (reader, source)));
    let mut readers = readers.filter(|(_, source)| **source == Source::Stage(at)).map(|(reader, _)| reader);
    readers.next().filter(|_| readers.next().is_none())
}

/// Whether a stage reads its inputs one image at a time, stored or not: all but a block that works on a stored map.
fn reads_images(kind: &StageKind) -> bool {
    !matches!(kind, StageKind::Block(BlockLayers { convolution: None, .. }))
}

/// Whether a stage reads its inputs in the forward pass only.
fn reads_once(kind: &StageKind) -> bool {
    matches!(kind, StageKind::Concat | StageKind::Sum { .. })
}

fn kernel_activation(activation: pointwise_network::Activation) -> Activation {
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
