// What a program gives the driver as a module.
#pragma once

#include "emulator.h"

namespace emulator {

// The part of an image that the card runs: machine code, or PTX that the driver compiles.
struct Code {
    bool is_ptx;
    unsigned architecture; // 90 is compute capability 9.0.
};

// The compute capability of the emulated card: POINTWISE_EMULATOR_ARCH, 90 if not set.
unsigned architecture();

// Finds what the card can run in an image, a fatbin or PTX as text; otherwise says what is wrong with it, and gives the driver's code.
int examine(const void *image, Code *found);

} // namespace emulator
