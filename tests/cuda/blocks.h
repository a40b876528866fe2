// Running a kernel.
#pragma once

#include "device.h"

namespace emulator {

// Runs all blocks, one after the other; with POINTWISE_EMULATOR_ORDER=reverse the last block and the last thread first. Shared memory
// is full of NaN at the start of each block.
void run(const Kernel *kernel, const void *arguments, Index grid, Index block, unsigned shared_bytes);

} // namespace emulator
