//! A compiled network.

use crate::choose::methods;
use crate::compose::compose;
use crate::error::InferenceError;
use crate::images::{Images, Visit};
use crate::layers::{Operation, len};
use crate::nodes::{Convolution, Nodes, Work};
use pointwise_kernels::{
    Buffer, FusedConvolution, FusedMethod, FusedParameters, Isa, PackedShape, Team, Workspace, padded,
};
use pointwise_memory::lacking;
use pointwise_network::{Map, Network, Source};
use pointwise_weights::State;
use std::time::Instant;

/// The options for compiling a [`Model`].
#[derive(Debug, Clone)]
pub struct Options {
    /// The number of images expected per call, at least 1. It and the number of threads decide how convolutions are computed, so models
    /// compiled for other numbers give the same results except for rounding. Smaller calls lose little speed, larger ones run in several
    /// passes, and one model's results do not depend on the number of images.
    pub batch: usize,
    /// Threads of the current rayon pool that share the work; by default all of them.
    pub threads: Option<usize>,
    /// The instruction set.
    pub isa: Isa,
}

impl Default for Options {
    fn default() -> Self {
        Self { batch: 1, threads: None, isa: Isa::detect() }
    }
}

/// Floats of the maps in use at once: as many images are processed together as fit into the last-level cache next to the weights.
const MAP_FLOATS: usize = 2 << 20;

/// Images that are processed together in any case, so that each read of the weights pays off.
const LEAST_IMAGES: usize = 8;

/// Multiply-accumulates of a call that finish before a second thread could start.
const ALONE: f64 = 1e6;

/// A network with its weights, ready for inference.
#[derive(Debug)]
pub struct Model {
    isa: Isa,
    threads: usize,
    shape: [usize; 3],
    classes: usize,
    /// Images that are processed together.
    chunk: usize,
    /// Estimated work of an image, in multiply-accumulates.
    macs: f64,
    steps: Vec<Step>,
    /// The buffers of the values between the steps.
    buffers: Vec<Buffer>,
    output: Place,
    workspace: Workspace,
}

/// Where values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Images,
    Buffer(usize),
}

#[derive(Debug)]
struct Step {
    name: String,
    work: StepWork,
    inputs: Vec<(Place, Map)>,
    target: usize,
    map: Map,
    /// Floats of an image of the output.
    len: usize,
    seconds: f64,
}

#[derive(Debug)]
enum StepWork {
    /// From images to a channels-last map.
    Import,
    /// From images or a map to a packed image.
    Pack(PackedShape),
    Convolution(FusedConvolution),
    AddedConvolution(FusedConvolution),
    Other(Operation),
}

/// How long a part of a model took.
#[derive(Debug, Clone, PartialEq)]
pub struct StepTime {
    /// The paths of its layers.
    pub name: String,
    /// How it is computed.
    pub method: String,
    /// Seconds in all calls since the last query.
    pub seconds: f64,
}

impl Model {
    /// Compiles a network with its weights.
    ///
    /// # Errors
    /// If the weights do not match the network, its description is inconsistent, or there is not enough memory.
    pub fn new(network: &Network, state: &State, options: &Options) -> Result<Self, InferenceError> {
        state.check(network)?;
        let graph = network.graph()?;
        let most = rayon::current_num_threads();
        let threads = options.threads.unwrap_or(most).clamp(1, most);
        let batch = options.batch.max(1);
        // A lower bound: the weights with BatchNorm folded in, and again in the layout in which they are read.
        room(graph.parameter_count().saturating_mul(2))?;
        let mut nodes = Nodes::new(&graph, state);
        nodes.read_maps_flat();
        compose(&mut nodes, options.isa, batch, threads);
        nodes.add_in_place();
        let mut model = Self {
            isa: options.isa,
            threads,
            shape: network.input,
            classes: graph.classes(),
            chunk: chunk(&nodes, batch),
            macs: 0.0,
            steps: Vec::new(),
            buffers: Vec::new(),
            output: Place::Images,
            workspace: Workspace::new([]),
        };
        model.compile(nodes)?;
        Ok(model)
    }

    /// Channels, rows and columns of an image.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The number of classes: values per image in a result.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The logits of images, `(N, classes)`.
    ///
    /// # Errors
    /// If the images do not have the network's shape.
    pub fn logits(&mut self, images: Images<'_>) -> Result<Vec<f32>, InferenceError> {
        let count = images.count(self.shape)?;
        let mut logits = vec![0.0; count * self.classes];
        let work = self.macs * count.min(self.chunk) as f64;
        let threads = if work < ALONE { 1 } else { self.threads };
        Team::gather(threads, |team| {
            for (number, logits) in logits.chunks_mut(self.chunk * self.classes).enumerate() {
                self.pass(team, images, number * self.chunk, logits);
            }
        });
        Ok(logits)
    }

    /// The probabilities of the classes, `(N, classes)`: the softmax of the logits.
    ///
    /// # Errors
    /// As [`Model::logits`].
    pub fn probabilities(&mut self, images: Images<'_>) -> Result<Vec<f32>, InferenceError> {
        let mut values = self.logits(images)?;
        for values in values.chunks_exact_mut(self.classes) {
            // The largest is subtracted first, so that no exponential overflows.
            let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f64> = values.iter().map(|value| f64::from(value - largest).exp()).collect();
            let sum: f64 = powers.iter().sum();
            values.iter_mut().zip(powers).for_each(|(value, power)| *value = (power / sum) as f32);
        }
        Ok(values)
    }

    /// How long each part took since the last call.
    pub fn take_times(&mut self) -> Vec<StepTime> {
        let take = |step: &mut Step| StepTime {
            name: step.name.clone(),
            method: step.method(),
            seconds: std::mem::take(&mut step.seconds),
        };
        self.steps.iter_mut().map(take).collect()
    }

    /// Runs some images through the network, as many as there are rows of logits.
    fn pass(&mut self, team: &mut Team<'_>, images: Images<'_>, first: usize, logits: &mut [f32]) {
        let count = logits.len() / self.classes;
        let Self { isa, shape, steps, buffers, workspace, .. } = self;
        for step in steps {
            let start = Instant::now();
            let mut target = std::mem::replace(&mut buffers[step.target], Buffer::empty());
            let output = &mut target[..count * step.len];
            let value = |at: usize| match step.inputs[at].0 {
                Place::Images => &[][..],
                Place::Buffer(at) => &buffers[at][..],
            };
            match &step.work {
                StepWork::Import => team.for_each_run(output, step.len, |image, target| {
                    images.with_values(first + image, *shape, Import { map: step.map, target });
                }),
                StepWork::Pack(packed) => team.for_each_run(output, step.len, |image, target| {
                    let (place, map) = step.inputs[0];
                    match place {
                        Place::Images => {
                            images.with_values(first + image, *shape, Packing { packed, target });
                        }
                        Place::Buffer(at) => {
                            packed.pack(&buffers[at][image * len(map)..(image + 1) * len(map)], target);
                        }
                    }
                }),
                StepWork::Convolution(fused) => fused.run(team, count, value(0), None, output, workspace),
                StepWork::AddedConvolution(fused) => {
                    fused.run(team, count, value(0), Some(value(1)), output, workspace);
                }
                StepWork::Other(operation) => {
                    let inputs: Vec<_> = step
                        .inputs
                        .iter()
                        .enumerate()
                        .map(|(at, (_, map))| (*map, &value(at)[..count * len(*map)]))
                        .collect();
                    operation.run(*isa, team, &inputs, step.map, output);
                }
            }
            buffers[step.target] = target;
            step.seconds += start.elapsed().as_secs_f64();
        }
        let Place::Buffer(at) = self.output else { return };
        let rows = self.buffers[at].chunks_exact(padded(self.classes));
        for (logits, row) in logits.chunks_exact_mut(self.classes).zip(rows) {
            logits.copy_from_slice(&row[..self.classes]);
        }
    }

    /// Builds steps, buffers and workspace from nodes.
    fn compile(&mut self, nodes: Nodes<'_>) -> Result<(), InferenceError> {
        let readers = nodes.readers();
        let is_computed = |at: &usize| readers[*at] > 0;
        let shapes: Vec<_> = (0..nodes.list.len())
            .filter(is_computed)
            .filter_map(|at| match &nodes.list[at].work {
                Work::Convolution(own) | Work::AddedConvolution(own) => Some(own.shape.convolution),
                Work::Other(_) => None,
            })
            .collect();
        let mut methods = methods(&shapes, self.chunk, self.threads).into_iter();
        let (input, output) = (nodes.input, nodes.output);
        let maps: Vec<Map> = nodes.list.iter().map(|node| node.output).collect();
        let map_of = |source: Source| match source {
            Source::Images => input,
            Source::Stage(at) => maps[at],
        };
        let mut builder = Builder { chunk: self.chunk, steps: Vec::new(), lens: Vec::new(), imported: None };
        // The value of each node.
        let mut values: Vec<usize> = vec![0; maps.len()];
        for (at, node) in nodes.list.into_iter().enumerate().filter(|(at, _)| is_computed(at)) {
            let value = |source: Source| match source {
                Source::Images => None,
                Source::Stage(at) => Some(values[at]),
            };
            let mut inputs: Vec<(Option<usize>, Map)> =
                node.inputs.iter().map(|source| (value(*source), map_of(*source))).collect();
            let work = match node.work {
                Work::Other(operation) => StepWork::Other(operation),
                Work::Convolution(own) | Work::AddedConvolution(own) => {
                    let method = methods.next().unwrap_or(FusedMethod::Product);
                    let shape = own.shape.convolution;
                    self.macs += method.cost(&shape, 1).macs;
                    if let Some(packed) = method.packed(&shape) {
                        let name = format!("input of {}", node.name);
                        let source = vec![inputs[0]];
                        let len = packed.len();
                        let value = builder.push(name, StepWork::Pack(packed), source, inputs[0].1, len);
                        inputs[0].0 = Some(value);
                    }
                    let Convolution { weight, bias, rings, .. } = &*own;
                    let parameters = FusedParameters { weight, bias, rings };
                    let fused = FusedConvolution::new(self.isa, own.shape, method, parameters);
                    if inputs.len() > 1 {
                        StepWork::AddedConvolution(fused)
                    } else {
                        StepWork::Convolution(fused)
                    }
                }
            };
            for (value, map) in &mut inputs {
                if value.is_none() {
                    *value = Some(builder.import(*map));
                }
            }
            values[at] = builder.push(node.name, work, inputs, node.output, len(node.output));
        }
        let last = match output {
            Source::Images => builder.import(input),
            Source::Stage(at) => values[at],
        };
        let needs: Vec<_> = builder
            .steps
            .iter()
            .filter_map(|step| match &step.work {
                StepWork::Convolution(fused) | StepWork::AddedConvolution(fused) => {
                    // Fewer images can be split into more parts, each with its own workspace; small calls run on one thread.
                    let calls = (1..=self.chunk).flat_map(|images| [(images, 1), (images, self.threads)]);
                    Some(calls.map(|(images, threads)| fused.need(images, threads)))
                }
                _ => None,
            })
            .flatten()
            .collect();
        self.workspace = Workspace::try_new(needs)?;
        builder.finish(last, self)
    }
}

/// An error unless there is memory for this many floats.
fn room(floats: usize) -> Result<(), InferenceError> {
    let need = floats.saturating_mul(size_of::<f32>()) as u64;
    lacking(need).map_or(Ok(()), |available| Err(InferenceError::Room { need, available }))
}

/// A step whose values have no buffers yet.
struct RawStep {
    name: String,
    work: StepWork,
    /// Values, or `None` for the images.
    inputs: Vec<(Option<usize>, Map)>,
    map: Map,
}

struct Builder {
    chunk: usize,
    /// Each step computes the value with its index.
    steps: Vec<RawStep>,
    /// Floats of an image of each value.
    lens: Vec<usize>,
    /// The images as a map.
    imported: Option<usize>,
}

impl Builder {
    fn push(
        &mut self,
        name: String,
        work: StepWork,
        inputs: Vec<(Option<usize>, Map)>,
        map: Map,
        len: usize,
    ) -> usize {
        self.steps.push(RawStep { name, work, inputs, map });
        self.lens.push(len);
        self.steps.len() - 1
    }

    /// The images as a channels-last map.
    fn import(&mut self, map: Map) -> usize {
        if let Some(value) = self.imported {
            return value;
        }
        let value = self.push("input".to_owned(), StepWork::Import, vec![(None, map)], map, len(map));
        self.imported = Some(value);
        value
    }

    /// Assigns each value a buffer, which later values reuse once nothing reads it any more.
    fn finish(self, last: usize, model: &mut Model) -> Result<(), InferenceError> {
        let mut last_reader: Vec<usize> = (0..self.steps.len()).collect();
        for (at, step) in self.steps.iter().enumerate() {
            for value in step.inputs.iter().filter_map(|(value, _)| *value) {
                last_reader[value] = at;
            }
        }
        last_reader[last] = usize::MAX;
        let mut sizes: Vec<usize> = Vec::new();
        let mut free: Vec<usize> = Vec::new();
        let mut place: Vec<usize> = Vec::new();
        for (at, len) in self.lens.iter().enumerate() {
            // The free buffer that fits best: the smallest that is large enough, else the largest.
            let fit = |buffer: &usize| (sizes[*buffer] < *len, sizes[*buffer].abs_diff(*len));
            let buffer = match free.iter().copied().min_by_key(fit) {
                Some(buffer) => {
                    free.retain(|other| *other != buffer);
                    buffer
                }
                None => {
                    sizes.push(0);
                    sizes.len() - 1
                }
            };
            sizes[buffer] = sizes[buffer].max(*len);
            place.push(buffer);
            let step = &self.steps[at];
            let mut done: Vec<usize> = step.inputs.iter().filter_map(|(value, _)| *value).collect();
            done.push(at);
            done.sort_unstable();
            done.dedup();
            free.extend(done.into_iter().filter(|value| last_reader[*value] <= at).map(|value| place[value]));
        }
        room(sizes.iter().fold(0, |sum: usize, len| sum.saturating_add(self.chunk.saturating_mul(*len))))?;
        let buffers = sizes.iter().map(|len| Buffer::try_new(self.chunk * len));
        model.buffers = buffers.collect::<Result<_, _>>()?;
        model.output = Place::Buffer(place[last]);
        let steps = self.steps.into_iter().zip(&self.lens).enumerate().map(|(at, (step, len))| Step {
            name: step.name,
            work: step.work,
            inputs: step
                .inputs
                .into_iter()
                .map(|(value, map)| (value.map_or(Place::Images, |value| Place::Buffer(place[value])), map))
                .collect(),
            target: place[at],
            map: step.map,
            len: *len,
            seconds: 0.0,
        });
        model.steps = steps.collect();
        Ok(())
    }
}

impl Step {
    fn method(&self) -> String {
        match &self.work {
            StepWork::Import | StepWork::Pack(_) => "import".to_owned(),
            StepWork::Convolution(fused) => fused.method().to_string(),
            StepWork::AddedConvolution(fused) => format!("{}, added to", fused.method()),
            StepWork::Other(operation) => operation.name().to_owned(),
        }
    }
}

/// The number of images processed together: even shares of a batch.
fn chunk(nodes: &Nodes<'_>, batch: usize) -> usize {
    let around = nodes.list.iter().map(|node| {
        let inputs: usize = node.inputs.iter().map(|source| len(nodes.map(*source))).sum();
        inputs + len(node.output)
    });
    let most = (MAP_FLOATS / around.max().unwrap_or(1).max(1)).max(LEAST_IMAGES).min(batch);
    batch.div_ceil(batch.div_ceil(most))
}

/// Writes an image as a channels-last map.
struct Import<'a> {
    map: Map,
    target: &'a mut [f32],
}

impl Visit for Import<'_> {
    fn visit(self, value: impl Fn(usize, usize) -> f32) {
        for (pixel, target) in self.target.chunks_exact_mut(padded(self.map.channels)).enumerate() {
            target.fill(0.0);
            for (channel, x) in target[..self.map.channels].iter_mut().enumerate() {
                *x = value(channel, pixel);
            }
        }
    }
}

/// Writes an image as a packed one.
struct Packing<'a> {
    packed: &'a PackedShape,
    target: &'a mut [f32],
}

impl Visit for Packing<'_> {
    fn visit(self, value: impl Fn(usize, usize) -> f32) {
        self.packed.write(self.target, value);
    }
}
