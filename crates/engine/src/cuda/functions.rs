//! The kernels of `kernels/`, by name.

use super::driver::{Gpu, Kernel};
use super::launch::{
    BatchMoments, BlockShape, BnActBackward, BnActForward, BnBackwardCoefficients, BnBackwardReduce,
    BnEvalScaleShift, BnFinalize, CopyChannels, CrossEntropyRows, CrossEntropyTotal, DropoutPass,
    ElementsPass, GateBackward, GatherAugmentBatch, GroupedConv, GroupedConvFilter, MapPass,
    MergeFilterPartials, MultiplyPass, NchwToNhwc, PoolPass,
};
use super::memory::F32;
use super::plan::width;
use crate::error::EngineError;
use pointwise_recipe::Precision;

#[derive(Debug)]
pub(super) struct Kernels {
    pub(super) gather_augment_batch: Kernel<GatherAugmentBatch>,
    pub(super) nchw_to_nhwc: Kernel<NchwToNhwc>,
    pub(super) batch_moments: Kernel<BatchMoments>,
    pub(super) bn_finalize: Kernel<BnFinalize>,
    pub(super) bn_eval_scale_shift: Kernel<BnEvalScaleShift>,
    pub(super) bn_act_forward: TailKernels<BnActForward>,
    pub(super) bn_act_backward_reduce: TailKernels<BnBackwardReduce>,
    pub(super) bn_backward_coefficients: Kernel<BnBackwardCoefficients>,
    pub(super) bn_act_backward: TailKernels<BnActBackward>,
    pub(super) global_avg_pool_forward: Kernel<MapPass>,
    pub(super) global_avg_pool_backward: Kernel<MapPass>,
    pub(super) flatten: Kernel<MapPass>,
    pub(super) unflatten: Kernel<MapPass>,
    pub(super) dropout: Kernel<DropoutPass>,
    pub(super) cross_entropy_rows: Kernel<CrossEntropyRows>,
    pub(super) cross_entropy_total: Kernel<CrossEntropyTotal>,
    pub(super) add: Kernel<ElementsPass>,
    pub(super) relu_backward: Kernel<ElementsPass>,
    pub(super) scale: Kernel<ElementsPass>,
    pub(super) multiply: Kernel<MultiplyPass>,
    pub(super) gate_backward: Kernel<GateBackward>,
    pub(super) copy_channels: Kernel<CopyChannels>,
    pub(super) max_pool_forward: Kernel<PoolPass>,
    pub(super) max_pool_backward: Kernel<PoolPass>,
    pub(super) avg_pool_forward: Kernel<PoolPass>,
    pub(super) avg_pool_backward: Kernel<PoolPass>,
    pub(super) grouped_conv_forward: Kernel<GroupedConv>,
    pub(super) grouped_conv_backward_data: Kernel<GroupedConv>,
    pub(super) grouped_conv_backward_filter: Kernel<GroupedConvFilter>,
    pub(super) merge_filter_partials: Kernel<MergeFilterPartials>,
}

/// A kernel's instances for what follows BatchNorm or bias.
#[derive(Debug)]
pub(super) struct TailKernels<P> {
    /// ReLU or nothing.
    act: Kernel<P>,
    /// The same, and a pool.
    act_pool: Kernel<P>,
    /// Another activation.
    other_act: Kernel<P>,
}

impl<P> TailKernels<P> {
    /// The instance for a block.
    pub(super) fn of(&self, shape: &BlockShape) -> &Kernel<P> {
        if shape.has_other_activation() {
            &self.other_act
        } else if shape.pool > 0 {
            &self.act_pool
        } else {
            &self.act
        }
    }
}

impl Kernels {
    pub(super) fn load(gpu: &Gpu, precision: Precision) -> Result<Self, EngineError> {
        let is_f32 = width(precision) == F32;
        // The instance for the type of the maps.
        macro_rules! typed {
            ($($name:literal),+) => {
                gpu.kernel(if is_f32 { concat!($($name,)+ "_f32") } else { concat!($($name,)+ "_bf16") })?
            };
        }
        macro_rules! tails {
            ($name:literal) => {
                TailKernels {
                    act: typed!("bn_act_", $name),
                    act_pool: typed!("bn_act_pool_", $name),
                    other_act: typed!("bn_other_act_", $name),
                }
            };
        }
        Ok(Self {
            gather_augment_batch: typed!("gather_augment_batch"),
            nchw_to_nhwc: typed!("nchw_to_nhwc"),
            batch_moments: typed!("batch_moments"),
            bn_finalize: gpu.kernel("bn_finalize")?,
            bn_eval_scale_shift: gpu.kernel("bn_eval_scale_shift")?,
            bn_act_forward: tails!("forward"),
            bn_act_backward_reduce: tails!("backward_reduce"),
            bn_backward_coefficients: gpu.kernel("bn_backward_coefficients")?,
            bn_act_backward: tails!("backward"),
            global_avg_pool_forward: typed!("global_avg_pool_forward"),
            global_avg_pool_backward: typed!("global_avg_pool_backward"),
            flatten: typed!("flatten"),
            unflatten: typed!("unflatten"),
            dropout: typed!("dropout"),
            cross_entropy_rows: typed!("cross_entropy_rows"),
            cross_entropy_total: gpu.kernel("cross_entropy_total")?,
            add: typed!("add"),
            relu_backward: typed!("relu_backward"),
            scale: typed!("scale"),
            multiply: typed!("multiply"),
            gate_backward: typed!("gate_backward"),
            copy_channels: typed!("copy_channels"),
            max_pool_forward: typed!("max_pool_forward"),
            max_pool_backward: typed!("max_pool_backward"),
            avg_pool_forward: typed!("avg_pool_forward"),
            avg_pool_backward: typed!("avg_pool_backward"),
            grouped_conv_forward: typed!("grouped_conv_forward"),
            grouped_conv_backward_data: typed!("grouped_conv_backward_data"),
            grouped_conv_backward_filter: typed!("grouped_conv_backward_filter"),
            merge_filter_partials: typed!("merge_filter_partials"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::launch::{
        Control, GradientNorm, Grid, Group, Lookahead, RowLoss, SetRate, Sizes, StepConstants, SwapAverage,
        Tiles, Update as UpdatePass,
    };
    use super::*;
    use pointwise_recipe::DeviceName;

    #[test]
    fn structures_are_as_large_as_in_the_kernels() {
        if crate::device::open(DeviceName::Cuda(0)).is_err() {
            return;
        }
        let gpu = Gpu::open(0).unwrap();
        let expected = [
            size_of::<Control>(),
            size_of::<SetRate>(),
            size_of::<GatherAugmentBatch>(),
            size_of::<NchwToNhwc>(),
            size_of::<BatchMoments>(),
            size_of::<BnFinalize>(),
            size_of::<BnEvalScaleShift>(),
            size_of::<BnActForward>(),
            size_of::<BnBackwardReduce>(),
            size_of::<BnBackwardCoefficients>(),
            size_of::<BnActBackward>(),
            size_of::<MapPass>(),
            size_of::<DropoutPass>(),
            size_of::<CrossEntropyRows>(),
            size_of::<CrossEntropyTotal>(),
            size_of::<RowLoss>(),
            size_of::<Group>(),
            size_of::<StepConstants>(),
            size_of::<GradientNorm>(),
            size_of::<UpdatePass>(),
            size_of::<ElementsPass>(),
            size_of::<MultiplyPass>(),
            size_of::<CopyChannels>(),
            size_of::<PoolPass>(),
            size_of::<GroupedConv>(),
            size_of::<GroupedConvFilter>(),
            size_of::<MergeFilterPartials>(),
            size_of::<SwapAverage>(),
            size_of::<Lookahead>(),
        ];
        let buffer = gpu.allocate(expected.len() * size_of::<u32>()).unwrap();
        let kernel = gpu.kernel("sizes").unwrap();
        gpu.launch(&kernel, Grid::linear(1), Sizes { sizes: buffer.address() }).unwrap();
        let sizes: Vec<u32> = gpu.download(&buffer, 0, expected.len()).unwrap();
        assert_eq!(sizes, expected.map(|size| size as u32));
    }

    /// A piece of a channel: how many values, their mean, and their squared distances from it.
    type Piece = (f64, f32, f32);

    /// How many values all pieces have, their mean and their biased variance, merged as Chan, Golub and LeVeque (1979) do it.
    fn merged(pieces: &[Piece]) -> (f64, f64, f64) {
        let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
        for &(n, piece_mean, piece_squares) in pieces {
            let total = count + n;
            let distance = f64::from(piece_mean) - mean;
            squares += f64::from(piece_squares) + distance * distance * (count * n / total);
            mean += distance * (n / total);
            count = total;
        }
        (count, mean, squares / count)
    }

    /// Mean and spread of the values of a channel, and how far the first piece is from the others.
    const CHANNELS: [(f64, f64, f64); 12] = [
        (0.0, 1.0, 0.0),
        (0.3, 2.0, 0.0),
        (1e3, 1.0, 0.0),
        (-1e5, 3.0, 0.0),
        (1e3, 1e-3, 0.0),
        (1.0, 0.0, 0.0),
        (-7e4, 0.0, 0.0),
        (0.0, 1e-12, 0.0),
        (1e-3, 1e12, 0.0),
        (0.0, 1.0, 1e4),
        (2e3, 1e-2, -1e5),
        (f64::NAN, 1.0, 0.0),
    ];

    #[test]
    fn moments_of_pieces_are_merged_as_chan_does() {
        // The accuracy that f32 allows; in f64 the two are within 1e-11 of each other.
        const TOLERANCE: f64 = 2e-7;
        const EPS: f64 = 1e-20;
        if crate::device::open(DeviceName::Cuda(0)).is_err() {
            return;
        }
        let gpu = Gpu::open(0).unwrap();
        let kernel = gpu.kernel::<BnFinalize>("bn_finalize").unwrap();
        let channels = CHANNELS.len();
        let upload = |values: &[f32]| {
            let buffer = gpu.allocate(size_of_val(values)).unwrap();
            gpu.upload(&buffer, 0, values).unwrap();
            buffer
        };
        // One piece, a last piece of one row, fewer and more pieces than threads that merge, complete and incomplete rounds of four.
        for (rows, chunk) in [(2, 8), (9, 8), (31 * 8, 8), (129 * 8, 8), (129_024, 352), (128 * 16 + 3, 16)] {
            for zeros in [0.0, 1.0, 4096.0] {
                let blocks = u32::div_ceil(rows, chunk);
                let noise = |i: u32| f64::from(i * 7919 % 1009) / 1009.0 - 0.5;
                let piece = |channel: usize, block: u32| -> Piece {
                    let (mean, spread, outlier) = CHANNELS[channel];
                    let n = f64::from(chunk.min(rows - block * chunk));
                    let mean = mean + spread * noise(block) + if block == 0 { outlier } else { 0.0 };
                    (n, mean as f32, (n * spread * spread * (1.0 + noise(block + 500))) as f32)
                };
                let mut partials = Vec::new();
                for block in 0..blocks {
                    partials.extend((0..channels).map(|channel| piece(channel, block).1));
                    partials.extend((0..channels).map(|channel| piece(channel, block).2));
                }
                let partials = upload(&partials);
                let none = vec![0.0; channels];
                let [weight, bias, scale, shift, mean, inv_std, running_mean, running_var] =
                    [(); 8].map(|()| upload(&none));
                let (vectors, channels_u32) = (channels as u32 / 4, channels as u32);
                let pass = BnFinalize {
                    partials: partials.address(),
                    weight: weight.address(),
                    bias: bias.address(),
                    convolution_bias: 0,
                    running_mean: running_mean.address(),
                    running_var: running_var.address(),
                    scale: scale.address(),
                    shift: shift.address(),
                    mean: mean.address(),
                    inv_std: inv_std.address(),
                    zeros,
                    eps: EPS,
                    momentum: 1.0,
                    unit: 0.0,
                    tiles: Tiles { rows, chunk, blocks, vectors, channels: channels_u32 },
                };
                gpu.launch(&kernel, Grid::merging(channels_u32), pass).unwrap();
                let read = |buffer| gpu.download::<f32>(buffer, 0, channels).unwrap();
                let (means, inv_stds, vars) = (read(&mean), read(&inv_std), read(&running_var));
                for channel in 0..channels {
                    let mut pieces: Vec<Piece> = (0..blocks).map(|block| piece(channel, block)).collect();
                    if zeros > 0.0 {
                        pieces.push((zeros, 0.0, 0.0));
                    }
                    let (count, mean, var) = merged(&pieces);
                    let case = format!("{:?}: {rows} rows by {chunk}, {zeros} zeros", CHANNELS[channel]);
                    let got = [means[channel], inv_stds[channel], vars[channel]].map(f64::from);
                    if mean.is_nan() {
                        assert!(got.iter().all(|value| value.is_nan()), "{case}: {got:?}");
                        continue;
                    }
                    // A mean is as near as its values are: to their size or to their spread.
                    let near = TOLERANCE * (mean.abs() + var.sqrt()) + 1e-30;
                    assert!((got[0] - mean).abs() <= near, "{case}: mean {} for {mean}", got[0]);
                    for (what, got, expected) in [
                        ("variance", got[2], var * count / (count - 1.0)),
                        ("1 / standard deviation", got[1], 1.0 / (var + EPS).sqrt()),
                    ] {
                        let near = TOLERANCE * expected;
                        assert!((got - expected).abs() <= near, "{case}: {what} {got} for {expected}");
                    }
                }
            }
        }
    }
}
