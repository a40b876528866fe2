//! A network as a chain of nodes with their buffers.

use super::Memory;
use super::block::{Block, Norm, Weighted};
use super::parameters::Parameters;
use crate::chain::{BlockLayers, Link, LinkKind, Map, NormLayer, chain};
use crate::{Array, EngineError};
use pointwise_kernels::{
    Buffer, ConvShape, Convolution, Epilogue, EpilogueShape, InputGradient, Isa, OutOfMemory, Workspace,
    WorkspaceNeed, global_average, global_average_adjoint, padded, to_channels_last, to_planar,
};
use pointwise_models::{Layer, Network};
use pointwise_random::Dropout;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

/// Floats of an image's map, channels padded.
fn len(map: Map) -> usize {
    map.pixels() * padded(map.channels)
}

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
    /// Multiply-accumulates forward of one image by the definition of the convolution.
    pub macs: usize,
}

#[derive(Debug)]
struct Node {
    kind: Kind,
    output: Map,
    time: LayerTime,
}

#[derive(Debug)]
enum Kind {
    Block(Box<Block>),
    Dropout { dropout: Dropout, factors: Buffer, values: Buffer },
    Average { values: Buffer },
    Flatten { input: Map, values: Buffer },
}

impl Node {
    /// Writes the output of an image.
    fn output(&self, image: usize, output: &mut [f32]) {
        match &self.kind {
            Kind::Block(block) => block.output(image, output),
            Kind::Dropout { values, .. } | Kind::Average { values, .. } | Kind::Flatten { values, .. } => {
                output.copy_from_slice(&values[image * output.len()..(image + 1) * output.len()]);
            }
        }
    }

    /// Is told of each image of the output's gradient.
    fn gradient_finished(&self, image: usize, gradient: &[f32]) {
        if let Kind::Block(block) = &self.kind {
            block.gradient_finished(image, gradient);
        }
    }
}

/// Makes `(scratch, image, output)`, scratch with room for the input.
type Fill<'a> = &'a (dyn Fn(&mut [f32], usize, &mut [f32]) + Sync);

/// Makes `(gradient of the output, image, gradient of the input)`.
type FillBack<'a> = &'a (dyn Fn(&[f32], usize, &mut [f32]) + Sync);

/// The chain, and the buffers that its nodes share.
#[derive(Debug)]
pub(super) struct Plan {
    input: Map,
    nodes: Vec<Node>,
    /// Where each parameter lies: PyTorch's name and shape.
    places: Vec<Place>,
    batch: usize,
    workspace: Workspace,
    logits: Buffer,
    /// Gradients of the output of one node and of the one before it.
    gradients: [Buffer; 2],
}

#[derive(Debug)]
struct Place {
    name: String,
    shape: Vec<usize>,
    range: Range<usize>,
    /// The node whose convolution has the layout; `None` for a vector.
    node: Option<usize>,
}

impl Plan {
    /// Groups the layers into nodes and gives every parameter its place.
    pub(super) fn new(
        network: &Network,
        isa: Isa,
        seed: u64,
        parameters: &mut Parameters,
    ) -> Result<Self, EngineError> {
        let input = Map::of(&network.input);
        let mut plan = Self {
            input,
            nodes: Vec::new(),
            places: Vec::new(),
            batch: 0,
            workspace: Workspace::new([]),
            logits: Buffer::empty(),
            gradients: [Buffer::empty(), Buffer::empty()],
        };
        for link in chain(network)? {
            let Link { name, kind, input, output, macs } = link;
            let empty = Buffer::empty;
            let (kind, method) = match kind {
                LinkKind::Block(layers) => {
                    let (block, method) = plan.block(layers, input, isa, parameters);
                    (Kind::Block(Box::new(block)), method)
                }
                LinkKind::Dropout { p, layer } => {
                    let dropout = Dropout { p, seed, step: 0, layer };
                    let kind = Kind::Dropout { dropout, factors: empty(), values: empty() };
                    (kind, Layer::Dropout { p }.to_string())
                }
                LinkKind::Average => (Kind::Average { values: empty() }, Layer::GlobalAvgPool.to_string()),
                LinkKind::Flatten => (Kind::Flatten { input, values: empty() }, Layer::Flatten.to_string()),
            };
            let time = LayerTime { name, method, forward: 0.0, backward: 0.0, macs };
            plan.nodes.push(Node { kind, output, time });
        }
        Ok(plan)
    }

    /// The map behind the last node.
    fn output_map(&self) -> Map {
        self.nodes.last().map_or(self.input, |node| node.output)
    }

    /// A block with places for its parameters, and how it convolves.
    fn block(
        &mut self,
        layers: BlockLayers,
        input: Map,
        isa: Isa,
        parameters: &mut Parameters,
    ) -> (Block, String) {
        let node = self.nodes.len();
        let mut place = |name: String, shape: Vec<usize>, len: usize, node: Option<usize>| {
            let range = parameters.place(len);
            self.places.push(Place { name, shape, range: range.clone(), node });
            range
        };
        let mut method = "in place".to_owned();
        let mut stored = (input.height, input.width, input.channels, 0);
        let convolution = layers.convolution.map(|layer| {
            let shape = ConvShape {
                height: input.height,
                width: input.width,
                in_channels: layer.in_channels,
                out_channels: layer.out_channels,
                kernel: layer.kernel,
                padding: layer.padding,
            };
            let convolution = Convolution::new(isa, shape);
            method = convolution.method().to_string();
            let (rows, columns) = shape.stored_map();
            stored = (rows, columns, shape.out_channels, shape.border());
            let mut weight_shape = vec![shape.out_channels, shape.in_channels];
            if !layer.linear {
                weight_shape.extend([shape.kernel; 2]);
            }
            let path = layer.path;
            let weight = place(format!("{path}.weight"), weight_shape, convolution.weight_len(), Some(node));
            let bias =
                place(format!("{path}.bias"), vec![shape.out_channels], padded(shape.out_channels), None);
            Weighted { convolution, weight, bias }
        });
        let norm = layers.norm.map(|NormLayer { path, channels }| Norm {
            weight: place(format!("{path}.weight"), vec![channels], padded(channels), None),
            bias: place(format!("{path}.bias"), vec![channels], padded(channels), None),
            running_mean: vec![0.0; padded(channels)],
            running_var: vec![1.0; padded(channels)],
            batches_tracked: 0,
            channels,
            path,
        });
        let (height, width, channels, border) = stored;
        let epilogue = EpilogueShape {
            height,
            width,
            channels: padded(channels),
            border,
            relu: layers.relu,
            pool: layers.pool,
        };
        (Block::new(isa, convolution, norm, Epilogue::new(isa, epilogue)), method)
    }

    /// Refuses a batch on which BatchNorm has no variance.
    pub(super) fn check_training(&self, images: usize) -> Result<(), EngineError> {
        for node in &self.nodes {
            if let Kind::Block(block) = &node.kind
                && block.norm.is_some()
                && block.values_per_channel(images) < 2
            {
                return Err(EngineError::Batch(format!(
                    "BatchNorm at {} needs more than one value for each channel; give it a larger batch",
                    node.time.name
                )));
            }
        }
        Ok(())
    }

    /// Images that there is room for.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// Makes room for a batch; does nothing when there is room. An error leaves no room.
    pub(super) fn reserve(&mut self, batch: usize) -> Result<(), OutOfMemory> {
        if batch <= self.batch {
            return Ok(());
        }
        self.release();
        for node in &mut self.nodes {
            let len = batch * len(node.output);
            match &mut node.kind {
                Kind::Block(block) => block.reserve(batch)?,
                Kind::Dropout { factors, values, .. } => {
                    (*factors, *values) = (Buffer::try_new(len)?, Buffer::try_new(len)?);
                }
                Kind::Average { values, .. } | Kind::Flatten { values, .. } => {
                    *values = Buffer::try_new(len)?;
                }
            }
        }
        self.workspace = Workspace::try_new(self.needs(batch))?;
        self.logits = Buffer::try_new(batch * self.logit_stride())?;
        let gradient = batch * self.largest_map();
        self.gradients = [Buffer::try_new(gradient)?, Buffer::try_new(gradient)?];
        self.batch = batch;
        Ok(())
    }

    /// Frees the old room before the new one is taken.
    fn release(&mut self) {
        self.batch = 0;
        for node in &mut self.nodes {
            match &mut node.kind {
                Kind::Block(block) => block.release(),
                Kind::Dropout { factors, values, .. } => {
                    (*factors, *values) = (Buffer::empty(), Buffer::empty());
                }
                Kind::Average { values, .. } | Kind::Flatten { values, .. } => *values = Buffer::empty(),
            }
        }
        self.workspace = Workspace::new([]);
        self.logits = Buffer::empty();
        self.gradients = [Buffer::empty(), Buffer::empty()];
    }

    fn needs(&self, batch: usize) -> impl Iterator<Item = WorkspaceNeed> {
        self.nodes.iter().filter_map(move |node| match &node.kind {
            Kind::Block(block) => block.convolution.as_ref().map(|weighted| weighted.convolution.need(batch)),
            _ => None,
        })
    }

    /// Floats of the largest map: the gradients of all but the first node's input pass through two buffers.
    fn largest_map(&self) -> usize {
        self.nodes.iter().map(|node| len(node.output)).fold(len(self.input), usize::max)
    }

    /// What room for a batch takes, without taking it.
    pub(super) fn memory(&self, batch: usize, parameters: usize) -> Memory {
        let bytes = |len: usize| Buffer::bytes_of(batch.saturating_mul(len));
        let mut memory = Memory {
            parameters,
            weights: 0,
            activations: bytes(self.logit_stride())
                .saturating_add(bytes(self.largest_map()).saturating_mul(2)),
            workspace: Workspace::bytes_of(self.needs(batch)),
        };
        for node in &self.nodes {
            let values = bytes(len(node.output));
            let activations = match &node.kind {
                Kind::Block(block) => {
                    let (activations, weights) = block.bytes(batch);
                    memory.weights += weights;
                    activations
                }
                Kind::Dropout { .. } => values.saturating_mul(2),
                Kind::Average { .. } | Kind::Flatten { .. } => values,
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
        (&self.logits[..len], &mut self.gradients[0][..len])
    }

    pub(super) fn weights_changed(&mut self) {
        for node in &mut self.nodes {
            if let Kind::Block(block) = &mut node.kind {
                block.weights_changed();
            }
        }
    }

    /// Forward in training mode of `images` images `(N, C, H, W)`; `step` counts from 0.
    pub(super) fn forward_train(&mut self, parameters: &Parameters, images: &[f32], n: usize, step: u64) {
        self.forward(parameters, images, n, Some(step));
    }

    /// Forward in evaluation mode.
    pub(super) fn forward_evaluate(&mut self, parameters: &Parameters, images: &[f32], n: usize) {
        self.forward(parameters, images, n, None);
    }

    fn forward(&mut self, parameters: &Parameters, images: &[f32], n: usize, step: Option<u64>) {
        let input = self.input;
        let Self { nodes, workspace, logits, .. } = self;
        for at in 0..nodes.len() {
            let start = Instant::now();
            let (before, rest) = nodes.split_at_mut(at);
            let node = &mut rest[0];
            let from = before.last().map_or(input, |node| node.output);
            let source = |image: usize, target: &mut [f32]| feed(before, input, images, image, target);
            let (len, from_len) = (len(node.output), len(from));
            // Runs `fill(scratch, image, target)` for each image of a buffer; scratch has room for the input.
            let each = |values: &mut [f32], fill: Fill<'_>| {
                values[..n * len].par_chunks_exact_mut(len).enumerate().for_each_init(
                    || vec![0.0; from_len],
                    |scratch, (image, target)| fill(scratch, image, target),
                );
            };
            match &mut node.kind {
                Kind::Block(block) => match step {
                    Some(_) => block.forward_train(parameters, n, &source, workspace),
                    None => block.forward_evaluate(parameters, n, &source, workspace),
                },
                Kind::Dropout { dropout, factors, values } => {
                    each(values, &|_, image, target| source(image, target));
                    if let Some(step) = step {
                        dropout.step = step;
                        let dropout = *dropout;
                        each(factors, &|_, image, target| dropout_factors(dropout, from, image, target));
                        each(values, &|_, image, target| {
                            let factors = &factors[image * len..(image + 1) * len];
                            target.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
                        });
                    }
                }
                Kind::Average { values, .. } => each(values, &|scratch, image, target| {
                    source(image, scratch);
                    global_average(scratch, target);
                }),
                Kind::Flatten { input, values } => each(values, &|scratch, image, target| {
                    source(image, scratch);
                    let (used, rest) = target.split_at_mut(input.pixels() * input.channels);
                    to_planar(scratch, input.channels, used);
                    rest.fill(0.0);
                }),
            }
            node.time.forward += start.elapsed().as_secs_f64();
        }
        let len = len(nodes.last().map_or(input, |node| node.output));
        for (image, target) in logits[..n * len].chunks_exact_mut(len).enumerate() {
            feed(nodes, input, images, image, target);
        }
    }

    /// Gradients of every parameter, from the logits' gradient.
    pub(super) fn backward(&mut self, parameters: &mut Parameters, images: &[f32], n: usize) {
        let input = self.input;
        let Self { nodes, workspace, gradients, .. } = self;
        if let Some(last) = nodes.last() {
            let len = len(last.output);
            for (image, gradient) in gradients[0][..n * len].chunks_exact(len).enumerate() {
                last.gradient_finished(image, gradient);
            }
        }
        let [mut gradient, mut input_gradient] = gradients.each_mut();
        for at in (0..nodes.len()).rev() {
            let start = Instant::now();
            let (before, rest) = nodes.split_at_mut(at);
            let node = &mut rest[0];
            let from = before.last().map_or(input, |node| node.output);
            let (len, from_len) = (len(node.output), len(from));
            let source = |image: usize, target: &mut [f32]| feed(before, input, images, image, target);
            let finished = |image: usize, gradient: &[f32]| {
                if let Some(node) = before.last() {
                    node.gradient_finished(image, gradient);
                }
            };
            let output = &gradient[..n * len];
            // Runs `fill(gradient of the output, image, gradient of the input)` for each image.
            let mut each = |fill: FillBack<'_>| {
                input_gradient[..n * from_len]
                    .par_chunks_exact_mut(from_len)
                    .zip(output.par_chunks_exact(len))
                    .enumerate()
                    .for_each(|(image, (target, output))| {
                        fill(output, image, target);
                        finished(image, target);
                    });
            };
            match &mut node.kind {
                Kind::Block(block) => {
                    let wanted = (!before.is_empty())
                        .then_some(InputGradient { values: &mut input_gradient[..], finished: &finished });
                    block.backward(parameters, n, &source, output, wanted, workspace);
                }
                Kind::Dropout { factors, .. } => each(&|output, image, target| {
                    let factors = &factors[image * len..(image + 1) * len];
                    for ((x, dy), factor) in target.iter_mut().zip(output).zip(factors) {
                        *x = dy * factor;
                    }
                }),
                Kind::Average { .. } => each(&|output, _, target| global_average_adjoint(output, target)),
                Kind::Flatten { input, .. } => each(&|output, _, target| {
                    to_channels_last(&output[..input.pixels() * input.channels], input.channels, target);
                }),
            }
            std::mem::swap(&mut gradient, &mut input_gradient);
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

    /// Values of the arena by PyTorch's names and in its layouts.
    pub(super) fn export(&self, values: &[f32]) -> BTreeMap<String, Array> {
        let export = |place: &Place| {
            let own = &values[place.range.clone()];
            let values = match self.convolution(place) {
                Some(convolution) => convolution.export_weight(own),
                None => own[..place.shape[0]].to_vec(),
            };
            (place.name.clone(), Array { shape: place.shape.clone(), values })
        };
        self.places.iter().map(export).collect()
    }

    /// The inverse of [`Plan::export`], for arrays that were checked.
    pub(super) fn import(
        &self,
        parameters: &mut Parameters,
        which: fn(&mut Parameters) -> &mut Buffer,
        arrays: &BTreeMap<String, Array>,
    ) {
        let target = which(parameters);
        for place in &self.places {
            let values = &arrays[&place.name].values;
            let own = &mut target[place.range.clone()];
            match self.convolution(place) {
                Some(convolution) => convolution.import_weight(values, own),
                None => own[..values.len()].copy_from_slice(values),
            }
        }
    }

    fn convolution(&self, place: &Place) -> Option<&Convolution> {
        match &self.nodes[place.node?].kind {
            Kind::Block(block) => block.convolution.as_ref().map(|weighted| &weighted.convolution),
            _ => None,
        }
    }

    fn norms(&self) -> impl Iterator<Item = &Norm> {
        self.nodes.iter().filter_map(|node| match &node.kind {
            Kind::Block(block) => block.norm.as_ref(),
            _ => None,
        })
    }

    /// Running statistics and batches tracked, by PyTorch's names.
    pub(super) fn statistics(&self) -> (BTreeMap<String, Array>, BTreeMap<String, i64>) {
        let (mut statistics, mut tracked) = (BTreeMap::new(), BTreeMap::new());
        for norm in self.norms() {
            for (name, values) in [("running_mean", &norm.running_mean), ("running_var", &norm.running_var)] {
                let array = Array { shape: vec![norm.channels], values: values[..norm.channels].to_vec() };
                statistics.insert(format!("{}.{name}", norm.path), array);
            }
            tracked.insert(format!("{}.num_batches_tracked", norm.path), norm.batches_tracked);
        }
        (statistics, tracked)
    }

    pub(super) fn set_statistics(
        &mut self,
        statistics: &BTreeMap<String, Array>,
        tracked: &BTreeMap<String, i64>,
    ) {
        for node in &mut self.nodes {
            let Kind::Block(block) = &mut node.kind else { continue };
            let Some(norm) = &mut block.norm else { continue };
            for (name, target) in
                [("running_mean", &mut norm.running_mean), ("running_var", &mut norm.running_var)]
            {
                let values = &statistics[&format!("{}.{name}", norm.path)].values;
                target[..values.len()].copy_from_slice(values);
            }
            let name = format!("{}.num_batches_tracked", norm.path);
            norm.batches_tracked = tracked.get(&name).copied().unwrap_or(0);
        }
    }
}

/// The output of the last of `nodes` for an image; without nodes, the image itself, channels last.
fn feed(nodes: &[Node], input: Map, images: &[f32], image: usize, target: &mut [f32]) {
    match nodes.last() {
        Some(node) => node.output(image, target),
        None => {
            let len = input.channels * input.pixels();
            to_channels_last(&images[image * len..(image + 1) * len], input.channels, target);
        }
    }
}

/// The factors of an image, which are drawn in `(N, C, H, W)` order.
fn dropout_factors(dropout: Dropout, map: Map, image: usize, target: &mut [f32]) {
    let len = map.pixels() * map.channels;
    if map.pixels() == 1 {
        dropout.factors(image * len, &mut target[..len]);
        target[len..].fill(0.0);
    } else {
        let mut planar = vec![0.0; len];
        dropout.factors(image * len, &mut planar);
        to_channels_last(&planar, map.channels, target);
    }
}
