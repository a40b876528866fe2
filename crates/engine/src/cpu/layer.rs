//! Layers and compositions that are not part of a block: their output is computed and stored one image at a time.

use pointwise_kernels::{
    ChannelRun, Isa, PoolShape, Subsampling, avg_pool, avg_pool_backward, copy_channels, elementwise,
    global_average, global_average_adjoint, max_pool, max_pool_backward, padded, subsample,
    subsample_adjoint, to_channels_last, to_planar,
};
use pointwise_network::{Map, StageKind, Window};
use pointwise_random::Dropout;
use std::sync::{Mutex, PoisonError};

/// The inputs of a layer: any image of any of them.
pub(super) trait Inputs: Sync {
    /// Writes an image of input `which`.
    fn read(&self, which: usize, image: usize, target: &mut [f32]);
    /// An image of input `which`, `len` floats, if it is stored in memory unchanged.
    fn stored(&self, which: usize, image: usize, len: usize) -> Option<&[f32]>;
}

/// A layer that is not part of a block, with its input and output maps.
#[derive(Debug)]
pub(super) struct Layer {
    isa: Isa,
    pub(super) operation: Operation,
    inputs: Vec<Map>,
    output: Map,
}

#[derive(Debug)]
pub(super) enum Operation {
    Dropout(Dropout),
    GlobalAverage,
    MaxPool(PoolShape),
    AveragePool { shape: PoolShape, count_include_pad: bool },
    Flatten,
    Scale(f32),
    Subsample(Subsampling),
    PadChannels { before: usize },
    Sum { relu: bool },
    Concat,
    Multiply,
}

/// Memory for images that live no longer than a call: as many as are in use at once, shared by all users.
#[derive(Debug, Default)]
pub(super) struct Scratch(Mutex<Vec<Vec<f32>>>);

impl Scratch {
    /// Lends an image of `len` floats, with any contents.
    fn image<T>(&self, len: usize, body: impl FnOnce(&mut [f32]) -> T) -> T {
        let free = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = free().pop();
        let mut image = taken.unwrap_or_default();
        if image.len() < len {
            image.resize(len, 0.0);
        }
        let result = body(&mut image[..len]);
        free().push(image);
        result
    }
}

/// Floats of an image's map with padded channels.
pub(super) fn len(map: Map) -> usize {
    map.pixels() * padded(map.channels)
}

impl Layer {
    /// The layer of a stage that is not a block; `seed` is for dropout.
    pub(super) fn new(isa: Isa, kind: &StageKind, inputs: &[Map], output: Map, seed: u64) -> Self {
        let input = inputs[0];
        let pool = |window: Window| PoolShape {
            height: input.height,
            width: input.width,
            channels: padded(input.channels),
            kernel: window.kernel,
            stride: window.stride,
            padding: window.padding,
        };
        let operation = match *kind {
            StageKind::Block(_) => unreachable!("blocks are not built here"),
            StageKind::Dropout { p, layer } => Operation::Dropout(Dropout { p, seed, step: 0, layer }),
            StageKind::GlobalAverage => Operation::GlobalAverage,
            StageKind::MaxPool(window) => Operation::MaxPool(pool(window)),
            StageKind::AveragePool { window, count_include_pad } => {
                Operation::AveragePool { shape: pool(window), count_include_pad }
            }
            StageKind::Flatten => Operation::Flatten,
            StageKind::Scale(factor) => Operation::Scale(factor),
            StageKind::Subsample(stride) => Operation::Subsample(Subsampling {
                height: input.height,
                width: input.width,
                channels: padded(input.channels),
                stride,
            }),
            StageKind::PadChannels { before } => Operation::PadChannels { before },
            StageKind::Sum { relu } => Operation::Sum { relu },
            StageKind::Concat => Operation::Concat,
            StageKind::Multiply => Operation::Multiply,
        };
        Self { isa, operation, inputs: inputs.to_vec(), output }
    }

    /// Whether recomputing the output on each read takes no longer than storing and loading it, for a reader in the forward pass and one
    /// that reads again in the backward pass.
    pub(super) fn is_light(&self) -> bool {
        matches!(
            self.operation,
            Operation::Multiply
                | Operation::Scale(_)
                | Operation::Subsample(_)
                | Operation::PadChannels { .. }
                | Operation::MaxPool(_)
        )
    }

    /// Floats of the largest image around the layer.
    pub(super) fn largest_image(&self) -> usize {
        self.inputs.iter().map(|map| len(*map)).fold(len(self.output), usize::max)
    }

    /// Writes the output of an image; `factors` are those of an active dropout.
    pub(super) fn forward(
        &self,
        inputs: &impl Inputs,
        image: usize,
        factors: Option<&[f32]>,
        scratch: &Scratch,
        target: &mut [f32],
    ) {
        let isa = self.isa;
        let map = self.inputs[0];
        // Calls `body` with a copy of the first input.
        let with_input = |body: &mut dyn FnMut(&[f32])| {
            scratch.image(len(map), |input| {
                inputs.read(0, image, input);
                body(input);
            });
        };
        match &self.operation {
            Operation::Dropout(_) => {
                inputs.read(0, image, target);
                if let Some(factors) = factors {
                    target.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
                }
            }
            Operation::Sum { relu } => {
                inputs.read(0, image, target);
                for which in 1..self.inputs.len() {
                    match inputs.stored(which, image, target.len()) {
                        Some(input) => elementwise::add_assign(isa, target, input),
                        None => scratch.image(target.len(), |input| {
                            inputs.read(which, image, input);
                            elementwise::add_assign(isa, target, input);
                        }),
                    }
                }
                if *relu {
                    // NaN stays NaN.
                    target.iter_mut().for_each(|x| *x = if *x <= 0.0 { 0.0 } else { *x });
                }
            }
            Operation::Concat => {
                let mut at = 0;
                for (which, map) in self.inputs.iter().enumerate() {
                    scratch.image(len(*map), |input| {
                        inputs.read(which, image, input);
                        self.copy_in(input, *map, at, target);
                    });
                    at += map.channels;
                }
            }
            Operation::Multiply => self.product(inputs, image, None, scratch, target),
            Operation::Scale(factor) => {
                with_input(&mut |input| elementwise::scale(isa, *factor, input, target));
            }
            Operation::GlobalAverage => with_input(&mut |input| global_average(input, target)),
            Operation::MaxPool(shape) => with_input(&mut |input| max_pool(isa, *shape, input, target)),
            Operation::AveragePool { shape, count_include_pad } => {
                with_input(&mut |input| avg_pool(isa, *shape, *count_include_pad, input, target));
            }
            Operation::Flatten => with_input(&mut |input| {
                let (used, rest) = target.split_at_mut(map.pixels() * map.channels);
                to_planar(input, map.channels, used);
                rest.fill(0.0);
            }),
            Operation::Subsample(shape) => with_input(&mut |input| subsample(*shape, input, target)),
            Operation::PadChannels { before } => with_input(&mut |input| {
                target.fill(0.0);
                self.copy_in(input, map, *before, target);
            }),
        }
    }

    /// Writes what an image's output gradient contributes to the gradient of input `which`.
    pub(super) fn backward(
        &self,
        inputs: &impl Inputs,
        (image, which): (usize, usize),
        factors: Option<&[f32]>,
        gradient: &[f32],
        scratch: &Scratch,
        target: &mut [f32],
    ) {
        let isa = self.isa;
        let map = self.inputs[which];
        match &self.operation {
            Operation::Dropout(_) => match factors {
                Some(factors) => elementwise::multiply(isa, gradient, factors, target),
                None => target.copy_from_slice(gradient),
            },
            // The gradient has already passed back through the sum's ReLU.
            Operation::Sum { .. } => target.copy_from_slice(gradient),
            Operation::Concat => {
                let first = self.inputs[..which].iter().map(|map| map.channels).sum();
                self.copy_out(gradient, first, map, target);
            }
            Operation::Multiply => scratch.image(len(self.output), |others| {
                self.product(inputs, image, Some(which), scratch, others);
                let pixels = self.output.pixels();
                if map.pixels() == pixels {
                    elementwise::multiply(isa, gradient, others, target);
                } else {
                    target.fill(0.0);
                    let channels = target.len();
                    for (dy, x) in gradient.chunks_exact(channels).zip(others.chunks_exact(channels)) {
                        for ((sum, dy), x) in target.iter_mut().zip(dy).zip(x) {
                            *sum += dy * x;
                        }
                    }
                }
            }),
            Operation::Scale(factor) => elementwise::scale(isa, *factor, gradient, target),
            Operation::GlobalAverage => global_average_adjoint(gradient, target),
            Operation::MaxPool(shape) => scratch.image(len(map), |input| {
                inputs.read(0, image, input);
                max_pool_backward(isa, *shape, input, gradient, target);
            }),
            Operation::AveragePool { shape, count_include_pad } => {
                avg_pool_backward(isa, *shape, *count_include_pad, gradient, target);
            }
            Operation::Flatten => {
                to_channels_last(&gradient[..map.pixels() * map.channels], map.channels, target);
            }
            Operation::Subsample(shape) => subsample_adjoint(*shape, gradient, target),
            Operation::PadChannels { before } => self.copy_out(gradient, *before, map, target),
        }
    }

    /// As [`Layer::backward`], but adds the contribution to the gradient.
    pub(super) fn add_backward(
        &self,
        inputs: &impl Inputs,
        place: (usize, usize),
        factors: Option<&[f32]>,
        gradient: &[f32],
        scratch: &Scratch,
        target: &mut [f32],
    ) {
        scratch.image(target.len(), |share| {
            self.backward(inputs, place, factors, gradient, scratch, share);
            elementwise::add_assign(self.isa, target, share);
        });
    }

    /// Copies all channels of an input into the output, starting at channel `at`.
    fn copy_in(&self, input: &[f32], map: Map, at: usize, output: &mut [f32]) {
        let to = ChannelRun { channels: self.output.channels, first: at };
        copy_channels(map.channels, input, ChannelRun::whole(map.channels), output, to);
    }

    /// Copies the channels of the output's gradient, starting at `at`, into that of an input.
    fn copy_out(&self, gradient: &[f32], at: usize, map: Map, target: &mut [f32]) {
        let from = ChannelRun { channels: self.output.channels, first: at };
        copy_channels(map.channels, gradient, from, target, ChannelRun::whole(map.channels));
    }

    /// The product of all inputs, except one if one is left out, over the map of the output.
    fn product(
        &self,
        inputs: &impl Inputs,
        image: usize,
        left_out: Option<usize>,
        scratch: &Scratch,
        target: &mut [f32],
    ) {
        let mut is_begun = false;
        for (which, map) in self.inputs.iter().enumerate().filter(|(which, _)| Some(*which) != left_out) {
            if !is_begun && len(*map) == target.len() {
                inputs.read(which, image, target);
                is_begun = true;
                continue;
            }
            if !is_begun {
                target.fill(1.0);
                is_begun = true;
            }
            scratch.image(len(*map), |input| {
                inputs.read(which, image, input);
                // An input of one pixel is broadcast to every pixel.
                for target in target.chunks_exact_mut(input.len()) {
                    target.iter_mut().zip(&*input).for_each(|(product, x)| *product *= x);
                }
            });
        }
    }
}

/// The dropout factors of an image, drawn in `(N, C, H, W)` order.
pub(super) fn dropout_factors(dropout: Dropout, map: Map, image: usize, target: &mut [f32]) {
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
