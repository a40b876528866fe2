// What is carried from step to step.
#pragma once

#include "common.cuh"

// What changes from step to step, and what is asked for at the end: read and advanced on the device.
struct Control {
    // Sums over batches.
    double loss_sum;
    u64 correct;
    u64 samples;
    double last_loss;
    // Of the newest training step, before clipping; NaN without one.
    double gradient_norm;
    // Training steps taken.
    u64 step;
    // What the coming steps are taken with: the learning rate, and SGD's momentum or the first beta of Adam and AdamW.
    double lr, momentum;
    // The first value that was not finite, what it was of (0: there was none), and its step.
    double bad_value;
    u64 bad_step;
    u32 bad;
    // Place of the next batch's first image in the order.
    u32 offset;
    u32 epoch;
    // What the gradients of the step in hand are multiplied by.
    float clip;
    // Whether the step in hand is the first: the moving average begins with it.
    u32 first;
};

// Of Control::bad.
#define BAD_LOSS 1
#define BAD_GRADIENT_NORM 2

// A NaN and an infinity are the numbers whose difference from themselves is no zero.
__device__ inline bool is_finite(double x) { return x - x == 0.0; }

__device__ inline void stop_at(Control *control, u32 what, double value, u64 step) {
    if (control->bad) return;
    control->bad = what;
    control->bad_value = value;
    control->bad_step = step;
}

struct SetRateParams {
    Control *control;
    double lr, momentum;
};

// Arguments of a kernel are copied when it is started, so that the host need not wait until they are read.
extern "C" __global__ void __launch_bounds__(THREADS) set_rate(SetRateParams p) {
    if (blockIdx.x * THREADS + threadIdx.x > 0) return;
    p.control->lr = p.lr;
    p.control->momentum = p.momentum;
}
