//! Layers and compositions that are no part of a block: their output is stored, an image at a time.

use crate::stage::{Map, StageKind, Window};
use pointwise_kernels::{
    ChannelRun, Isa, PoolShape, Subsampling, avg_pool, avg_pool_backward, copy_channels, elementwise,
    global_average, global_average_adjoint, max_pool, max_pool_backward, padded, subsample,
    subsample_adjoint, to_channels_last, to_planar,
};
use pointwise_random::Dropout;

/// What a layer reads: any image of any of its inputs.
pub(super) trait Inputs: Sync {
    /// Writes an image of input `which`.
    fn read(&self, which: usize, image: usize, target: &mut [f32]);
}

/// A layer that is no part of a block, with the maps around it.
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

/// Room for two images of a layer's inputs, for each thread.
#[derive(Debug)]
pub(super) struct Scratch {
    first: Vec<f32>,
    second: Vec<f32>,
}

/// Floats of an image's map, channels padded.
pub(super) fn len(map: Map) -> usize {
    map.pixels() * padded(map.channels)
}

impl Layer {
    /// The layer of a stage that is no block; `seed` is the dropout's.
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
            StageKind::Block(_) => unreachable!("blocks are not made here"),
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

    pub(super) fn scratch(&self) -> Scratch {
        let room = self.inputs.iter().map(|map| len(*map)).fold(len(self.output), usize::max);
        Scratch { first: vec![0.0; room], second: vec![0.0; room] }
    }

    /// Writes the output of an image; `factors` are the dropout's, where there is one and it is on.
    pub(super) fn forward(
        &self,
        inputs: &impl Inputs,
        image: usize,
        factors: Option<&[f32]>,
        scratch: &mut Scratch,
        target: &mut [f32],
    ) {
        let isa = self.isa;
        let first = &mut scratch.first[..len(self.inputs[0])];
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
                    inputs.read(which, image, first);
                    elementwise::add_assign(isa, target, first);
                }
                if *relu {
                    // NaN stays NaN.
                    target.iter_mut().for_each(|x| *x = if *x <= 0.0 { 0.0 } else { *x });
                }
            }
            Operation::Concat => {
                let mut at = 0;
                for (which, map) in self.inputs.iter().enumerate() {
                    let input = &mut scratch.first[..len(*map)];
                    inputs.read(which, image, input);
                    self.copy_in(input, *map, at, target);
                    at += map.channels;
                }
            }
            Operation::Multiply => self.product(inputs, image, None, &mut scratch.first, target),
            Operation::Scale(factor) => {
                inputs.read(0, image, first);
                elementwise::scale(isa, *factor, first, target);
            }
            Operation::GlobalAverage => {
                inputs.read(0, image, first);
                global_average(first, target);
            }
            Operation::MaxPool(shape) => {
                inputs.read(0, image, first);
                max_pool(isa, *shape, first, target);
            }
            Operation::AveragePool { shape, count_include_pad } => {
                inputs.read(0, image, first);
                avg_pool(isa, *shape, *count_include_pad, first, target);
            }
            Operation::Flatten => {
                let map = self.inputs[0];
                inputs.read(0, image, first);
                let (used, rest) = target.split_at_mut(map.pixels() * map.channels);
                to_planar(first, map.channels, used);
                rest.fill(0.0);
            }
            Operation::Subsample(shape) => {
                inputs.read(0, image, first);
                subsample(*shape, first, target);
            }
            Operation::PadChannels { before } => {
                inputs.read(0, image, first);
                target.fill(0.0);
                self.copy_in(first, self.inputs[0], *before, target);
            }
        }
    }

    /// Writes the share of an image's output gradient in the gradient of input `which`.
    pub(super) fn backward(
        &self,
        inputs: &impl Inputs,
        (image, which): (usize, usize),
        factors: Option<&[f32]>,
        gradient: &[f32],
        scratch: &mut Scratch,
        target: &mut [f32],
    ) {
        let isa = self.isa;
        let map = self.inputs[which];
        match &self.operation {
            Operation::Dropout(_) => match factors {
                Some(factors) => elementwise::multiply(isa, gradient, factors, target),
                None => target.copy_from_slice(gradient),
            },
            // The ReLU of a sum has been taken out of the gradient.
            Operation::Sum { .. } => target.copy_from_slice(gradient),
            Operation::Concat => {
                let first = self.inputs[..which].iter().map(|map| map.channels).sum();
                self.copy_out(gradient, first, map, target);
            }
            Operation::Multiply => {
                let others = &mut scratch.second[..len(self.output)];
                self.product(inputs, image, Some(which), &mut scratch.first, others);
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
            }
            Operation::Scale(factor) => elementwise::scale(isa, *factor, gradient, target),
            Operation::GlobalAverage => global_average_adjoint(gradient, target),
            Operation::MaxPool(shape) => {
                let input = &mut scratch.first[..len(map)];
                inputs.read(0, image, input);
                max_pool_backward(isa, *shape, input, gradient, target);
            }
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

    /// Copies all channels of an input into the output, from channel `at` on.
    fn copy_in(&self, input: &[f32], map: Map, at: usize, output: &mut [f32]) {
        let to = ChannelRun { channels: self.output.channels, first: at };
        copy_channels(map.channels, input, ChannelRun::whole(map.channels), output, to);
    }

    /// Copies the channels from `at` on of the output's gradient into that of an input.
    fn copy_out(&self, gradient: &[f32], at: usize, map: Map, target: &mut [f32]) {
        let from = ChannelRun { channels: self.output.channels, first: at };
        copy_channels(map.channels, gradient, from, target, ChannelRun::whole(map.channels));
    }

    /// The product of the inputs, all but one if one is left out, over the map of the output.
    fn product(
        &self,
        inputs: &impl Inputs,
        image: usize,
        left_out: Option<usize>,
        scratch: &mut [f32],
        target: &mut [f32],
    ) {
        target.fill(1.0);
        for (which, map) in self.inputs.iter().enumerate().filter(|(which, _)| Some(*which) != left_out) {
            let input = &mut scratch[..len(*map)];
            inputs.read(which, image, input);
            // An input of one pixel stands for every pixel.
            for target in target.chunks_exact_mut(input.len()) {
                target.iter_mut().zip(&*input).for_each(|(product, x)| *product *= x);
            }
        }
    }
}

/// The factors of an image, which are drawn in `(N, C, H, W)` order.
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
