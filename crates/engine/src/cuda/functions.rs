//! The kernels of `kernels.cu`, by name.

use super::driver::{Gpu, Kernel};
use super::launch::{
    Apply, Assemble, ChannelsPass, Coefficients, DropoutPass, ElementsPass, Evaluation, Gradient, Grouped,
    GroupedFilter, Import, LossRows, LossTotal, MapPass, Merge, Moments, MultiplyPass, Normalise, PoolPass,
    Reduce,
};
use super::memory::F32;
use super::plan::width;
use crate::error::EngineError;
use pointwise_recipe::Precision;

#[derive(Debug)]
pub(super) struct Kernels {
    pub(super) assemble: Kernel<Assemble>,
    pub(super) import: Kernel<Import>,
    pub(super) moments: Kernel<Moments>,
    pub(super) normalise: Kernel<Normalise>,
    pub(super) evaluation: Kernel<Evaluation>,
    pub(super) apply: Kernel<Apply>,
    pub(super) reduce: Kernel<Reduce>,
    pub(super) coefficients: Kernel<Coefficients>,
    pub(super) gradient: Kernel<Gradient>,
    pub(super) average: Kernel<MapPass>,
    pub(super) spread: Kernel<MapPass>,
    pub(super) flatten: Kernel<MapPass>,
    pub(super) unflatten: Kernel<MapPass>,
    pub(super) dropout: Kernel<DropoutPass>,
    pub(super) loss_rows: Kernel<LossRows>,
    pub(super) loss_total: Kernel<LossTotal>,
    /// For activations other than ReLU.
    pub(super) apply_other: Kernel<Apply>,
    pub(super) reduce_other: Kernel<Reduce>,
    pub(super) gradient_other: Kernel<Gradient>,
    pub(super) sum: Kernel<ElementsPass>,
    pub(super) mask: Kernel<ElementsPass>,
    pub(super) scale: Kernel<ElementsPass>,
    pub(super) multiply: Kernel<MultiplyPass>,
    pub(super) gate: Kernel<MultiplyPass>,
    pub(super) channels: Kernel<ChannelsPass>,
    pub(super) max_pool: Kernel<PoolPass>,
    pub(super) max_pool_back: Kernel<PoolPass>,
    pub(super) average_pool: Kernel<PoolPass>,
    pub(super) average_pool_back: Kernel<PoolPass>,
    pub(super) grouped: Kernel<Grouped>,
    pub(super) grouped_data: Kernel<Grouped>,
    pub(super) grouped_filter: Kernel<GroupedFilter>,
    pub(super) merge: Kernel<Merge>,
}

impl Kernels {
    pub(super) fn load(gpu: &Gpu, precision: Precision) -> Result<Self, EngineError> {
        let of = |f32: &'static str, bf16: &'static str| if width(precision) == F32 { f32 } else { bf16 };
        Ok(Self {
            assemble: gpu.kernel(of("assemble_f32", "assemble_bf16"))?,
            import: gpu.kernel(of("import_f32", "import_bf16"))?,
            moments: gpu.kernel(of("moments_f32", "moments_bf16"))?,
            normalise: gpu.kernel("normalise")?,
            evaluation: gpu.kernel("evaluation")?,
            apply: gpu.kernel(of("apply_f32", "apply_bf16"))?,
            reduce: gpu.kernel(of("reduce_f32", "reduce_bf16"))?,
            coefficients: gpu.kernel("coefficients")?,
            gradient: gpu.kernel(of("gradient_f32", "gradient_bf16"))?,
            average: gpu.kernel(of("average_f32", "average_bf16"))?,
            spread: gpu.kernel(of("spread_f32", "spread_bf16"))?,
            flatten: gpu.kernel(of("flatten_f32", "flatten_bf16"))?,
            unflatten: gpu.kernel(of("unflatten_f32", "unflatten_bf16"))?,
            dropout: gpu.kernel(of("dropout_f32", "dropout_bf16"))?,
            loss_rows: gpu.kernel(of("loss_rows_f32", "loss_rows_bf16"))?,
            loss_total: gpu.kernel("loss_total")?,
            apply_other: gpu.kernel(of("apply_other_f32", "apply_other_bf16"))?,
            reduce_other: gpu.kernel(of("reduce_other_f32", "reduce_other_bf16"))?,
            gradient_other: gpu.kernel(of("gradient_other_f32", "gradient_other_bf16"))?,
            sum: gpu.kernel(of("sum_f32", "sum_bf16"))?,
            mask: gpu.kernel(of("mask_f32", "mask_bf16"))?,
            scale: gpu.kernel(of("scale_f32", "scale_bf16"))?,
            multiply: gpu.kernel(of("multiply_f32", "multiply_bf16"))?,
            gate: gpu.kernel(of("gate_f32", "gate_bf16"))?,
            channels: gpu.kernel(of("channels_f32", "channels_bf16"))?,
            max_pool: gpu.kernel(of("max_pool_f32", "max_pool_bf16"))?,
            max_pool_back: gpu.kernel(of("max_pool_back_f32", "max_pool_back_bf16"))?,
            average_pool: gpu.kernel(of("average_pool_f32", "average_pool_bf16"))?,
            average_pool_back: gpu.kernel(of("average_pool_back_f32", "average_pool_back_bf16"))?,
            grouped: gpu.kernel(of("grouped_f32", "grouped_bf16"))?,
            grouped_data: gpu.kernel(of("grouped_data_f32", "grouped_data_bf16"))?,
            grouped_filter: gpu.kernel(of("grouped_filter_f32", "grouped_filter_bf16"))?,
            merge: gpu.kernel(of("merge_f32", "merge_bf16"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::launch::{
        Control, GradientNorm, Grid, Group, RowLoss, SetRate, Sizes, StepConstants, SwapAverage,
        Update as UpdatePass,
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
            size_of::<Assemble>(),
            size_of::<Import>(),
            size_of::<Moments>(),
            size_of::<Normalise>(),
            size_of::<Evaluation>(),
            size_of::<Apply>(),
            size_of::<Reduce>(),
            size_of::<Coefficients>(),
            size_of::<Gradient>(),
            size_of::<MapPass>(),
            size_of::<DropoutPass>(),
            size_of::<LossRows>(),
            size_of::<LossTotal>(),
            size_of::<RowLoss>(),
            size_of::<Group>(),
            size_of::<StepConstants>(),
            size_of::<GradientNorm>(),
            size_of::<UpdatePass>(),
            size_of::<ElementsPass>(),
            size_of::<MultiplyPass>(),
            size_of::<ChannelsPass>(),
            size_of::<PoolPass>(),
            size_of::<Grouped>(),
            size_of::<GroupedFilter>(),
            size_of::<Merge>(),
            size_of::<SwapAverage>(),
        ];
        let buffer = gpu.allocate(expected.len() * size_of::<u32>()).unwrap();
        let kernel = gpu.kernel("sizes").unwrap();
        gpu.launch(&kernel, Grid::linear(1), Sizes { sizes: buffer.address() }).unwrap();
        let sizes: Vec<u32> = gpu.download(&buffer, 0, expected.len()).unwrap();
        assert_eq!(sizes, expected.map(|size| size as u32));
    }
}
