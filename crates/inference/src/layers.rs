//! Everything except convolutions: on channels-last maps with padded channels, one row of the output at a time where possible.

use pointwise_kernels::{
    Activation, Affine, ChannelRun, Epilogue, EpilogueShape, Isa, PoolShape, Subsampling, Team, avg_pool,
    copy_channels, elementwise, global_average, max_pool, padded, subsample, to_planar,
};
use pointwise_network::{Map, StageKind, Window};

#[derive(Debug, Clone)]
pub(crate) enum Operation {
    /// `activation(scale * x + shift)`, then the pool.
    Affine {
        scale: Vec<f32>,
        shift: Vec<f32>,
        activation: Activation,
        pool: bool,
    },
    GlobalAverage,
    MaxPool(PoolShape),
    AveragePool {
        shape: PoolShape,
        count_include_pad: bool,
    },
    Flatten,
    Scale(f32),
    Subsample(Subsampling),
    PadChannels {
        before: usize,
    },
    Sum {
        relu: bool,
    },
    Concat,
    Multiply,
}

/// Floats of a map with its channels padded.
pub(crate) fn len(map: Map) -> usize {
    map.pixels() * padded(map.channels)
}

impl Operation {
    /// The operation of a stage that is neither a block nor a dropout, from its input maps.
    pub(crate) fn new(kind: &StageKind, inputs: &[Map]) -> Self {
        let input = inputs[0];
        let channels = padded(input.channels);
        let pool = |Window { kernel, stride, padding }: Window| PoolShape {
            height: input.height,
            width: input.width,
            channels,
            kernel,
            stride,
            padding,
        };
        match *kind {
            StageKind::Block(_) | StageKind::Dropout { .. } => unreachable!("built elsewhere"),
            StageKind::GlobalAverage => Self::GlobalAverage,
            StageKind::MaxPool(window) => Self::MaxPool(pool(window)),
            StageKind::AveragePool { window, count_include_pad } => {
                Self::AveragePool { shape: pool(window), count_include_pad }
            }
            StageKind::Flatten => Self::Flatten,
            StageKind::Scale(factor) => Self::Scale(factor),
            StageKind::Subsample(stride) => {
                Self::Subsample(Subsampling { height: input.height, width: input.width, channels, stride })
            }
            StageKind::PadChannels { before } => Self::PadChannels { before },
            StageKind::Sum { relu } => Self::Sum { relu },
            StageKind::Concat => Self::Concat,
            StageKind::Multiply => Self::Multiply,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Affine { .. } => "scale and shift",
            Self::GlobalAverage => "global average",
            Self::MaxPool(_) => "maximum pool",
            Self::AveragePool { .. } => "average pool",
            Self::Flatten => "flatten",
            Self::Scale(_) => "scale",
            Self::Subsample(_) => "subsample",
            Self::PadChannels { .. } => "pad channels",
            Self::Sum { .. } => "sum",
            Self::Concat => "concat",
            Self::Multiply => "product",
        }
    }

    /// Computes the output of some images; inputs and output hold that many images of their maps.
    pub(crate) fn run(
        &self,
        isa: Isa,
        team: &mut Team<'_>,
        inputs: &[(Map, &[f32])],
        map: Map,
        output: &mut [f32],
    ) {
        let (input_map, input) = inputs[0];
        let image = |at: usize| &input[at * len(input_map)..(at + 1) * len(input_map)];
        let (whole, row) = (len(map), map.width * padded(map.channels));
        match self {
            Self::Affine { scale, shift, activation, pool } => {
                let height = if *pool { 2 } else { 1 };
                let channels = input_map.channels;
                let (width, activation, pool) = (input_map.width, *activation, *pool);
                let shape = EpilogueShape { height, width, channels, border: 0, activation, pool };
                let epilogue = Epilogue::new(isa, shape);
                let rows = input_map.width * padded(channels);
                team.for_each_run(output, row, |task, target| {
                    let from = task / map.height * len(input_map) + task % map.height * height * rows;
                    epilogue.apply(Affine { scale, shift }, &input[from..from + height * rows], target);
                });
            }
            Self::GlobalAverage => {
                team.for_each_run(output, whole, |task, target| global_average(image(task), target));
            }
            Self::MaxPool(shape) => {
                team.for_each_run(output, whole, |task, target| max_pool(isa, *shape, image(task), target));
            }
            Self::AveragePool { shape, count_include_pad } => {
                team.for_each_run(output, whole, |task, target| {
                    avg_pool(isa, *shape, *count_include_pad, image(task), target);
                });
            }
            Self::Flatten => team.for_each_run(output, whole, |task, target| {
                let (used, rest) = target.split_at_mut(input_map.pixels() * input_map.channels);
                to_planar(image(task), input_map.channels, used);
                rest.fill(0.0);
            }),
            Self::Scale(factor) => team.for_each_run(output, row, |task, target| {
                elementwise::scale(isa, *factor, &input[task * row..(task + 1) * row], target);
            }),
            Self::Subsample(shape) => {
                team.for_each_run(output, whole, |task, target| subsample(*shape, image(task), target));
            }
            Self::PadChannels { before } => team.for_each_run(output, row, |task, target| {
                target.fill(0.0);
                copy_in(input_map, input, task, *before, map, target);
            }),
            Self::Sum { relu } => team.for_each_run(output, row, |task, target| {
                let range = task * row..(task + 1) * row;
                target.copy_from_slice(&input[range.clone()]);
                for (_, other) in &inputs[1..] {
                    elementwise::add_assign(isa, target, &other[range.clone()]);
                }
                if *relu {
                    // NaN stays NaN.
                    target.iter_mut().for_each(|x| *x = if *x <= 0.0 { 0.0 } else { *x });
                }
            }),
            Self::Concat => team.for_each_run(output, row, |task, target| {
                let mut first = 0;
                for (from, input) in inputs {
                    copy_in(*from, input, task, first, map, target);
                    first += from.channels;
                }
            }),
            Self::Multiply => team.for_each_run(output, row, |task, target| {
                target.fill(1.0);
                for (from, input) in inputs {
                    if from.pixels() == map.pixels() {
                        let factors = &input[task * row..(task + 1) * row];
                        target.iter_mut().zip(factors).for_each(|(product, x)| *product *= x);
                    } else {
                        // An input of one pixel is broadcast to every pixel.
                        let (at, channels) = (task / map.height, padded(map.channels));
                        let factors = &input[at * channels..(at + 1) * channels];
                        for pixel in target.chunks_exact_mut(channels) {
                            pixel.iter_mut().zip(factors).for_each(|(product, x)| *product *= x);
                        }
                    }
                }
            }),
        }
    }
}

/// Copies all channels of a row of an input into a row of the output, starting at channel `first`.
fn copy_in(from: Map, input: &[f32], row: usize, first: usize, to: Map, target: &mut [f32]) {
    let len = from.width * padded(from.channels);
    let to = ChannelRun { channels: to.channels, first };
    let source = &input[row * len..(row + 1) * len];
    copy_channels(from.channels, source, ChannelRun::whole(from.channels), target, to);
}
