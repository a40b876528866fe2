// Device code of the engine `cuda`, a file a subject.
//
// Maps are channels-last, (images, rows, columns, channels), with the channels padded by zeros to whole vectors of 16 bytes: 4 f32
// or 8 bf16. No pass ever makes a padded channel anything else. Every kernel takes one structure by value, which
// `launch.rs` repeats field for field. Sums run in an order that the shapes alone decide: no atomic operation anywhere.
//
// This file compiles with nvcc, and with a C++ compiler that defines CUDA's words, on which the tests without a GPU run it.

#include "activation.cuh"
#include "batch_norm.cuh"
#include "bn_act_pool.cuh"
#include "control.cuh"
#include "convolution.cuh"
#include "dropout.cuh"
#include "elementwise.cuh"
#include "images.cuh"
#include "layout.cuh"
#include "loss.cuh"
#include "optimizer.cuh"
#include "pool.cuh"
#include "random.cuh"
#include "windows.cuh"

struct SizesParams {
    u32 *sizes;
};

// What the device's compiler makes of the structures, for a test to compare with the host's.
extern "C" __global__ void __launch_bounds__(THREADS) sizes(SizesParams p) {
    if (blockIdx.x * THREADS + threadIdx.x > 0) return;
    const u32 all[] = {
        sizeof(Control),
        sizeof(SetRateParams),
        sizeof(GatherAugmentBatchParams),
        sizeof(NchwToNhwcParams),
        sizeof(BatchMomentsParams),
        sizeof(BnFinalizeParams),
        sizeof(BnEvalScaleShiftParams),
        sizeof(BnActForwardParams),
        sizeof(BnBackwardReduceParams),
        sizeof(BnBackwardCoefficientsParams),
        sizeof(BnActBackwardParams),
        sizeof(MapParams),
        sizeof(DropoutParams),
        sizeof(CrossEntropyRowsParams),
        sizeof(CrossEntropyTotalParams),
        sizeof(RowLoss),
        sizeof(Group),
        sizeof(StepConstants),
        sizeof(GradientNormParams),
        sizeof(UpdateParams),
        sizeof(ElementsParams),
        sizeof(MultiplyParams),
        sizeof(CopyChannelsParams),
        sizeof(PoolParams),
        sizeof(GroupedConvParams),
        sizeof(GroupedConvFilterParams),
        sizeof(MergeFilterPartialsParams),
        sizeof(SwapAverageParams),
        sizeof(LookaheadParams),
    };
    for (u32 i = 0; i < sizeof(all) / sizeof(all[0]); i++) p.sizes[i] = all[i];
}
