// Cross entropy, the totals, and the beginning of the optimizer's step.
#pragma once

#include "optimizer.cuh"

// Of an image.
struct RowLoss {
    double loss;
    u32 correct;
};

struct CrossEntropyRowsParams {
    const void *logits;  // (n, padded)
    const u16 *labels;   // (n)
    void *gradient;      // (n, padded); null in evaluation
    RowLoss *rows;       // (n)
    double smoothing;    // share of each label that goes to all classes alike
    u32 n, classes, padded;
};

// A block of (across, 256 / across) threads: `across` of them, a power of two, have a row. In f64, as on the CPU.
template <typename T> __device__ void cross_entropy_rows(const CrossEntropyRowsParams &p) {
    __shared__ float largests[THREADS];
    __shared__ u32 bests[THREADS];
    __shared__ double sums[THREADS], logit_sums[THREADS];
    const u32 across = blockDim.x, own = threadIdx.x, at = threadIdx.y * across + own;
    const u32 row = blockIdx.x * blockDim.y + threadIdx.y;
    const bool used = row < p.n;
    const T *logits = (const T *)p.logits + (u64)row * p.padded;
    float largest = 0.0f;
    u32 best = 0;
    if (used) {
        // No thread is without a class.
        largest = widen(logits[own]);
        best = own;
        for (u32 class_ = own + across; class_ < p.classes; class_ += across) {
            const float x = widen(logits[class_]);
            if (x > largest) largest = x, best = class_;
        }
    }
    largests[at] = largest, bests[at] = best;
    for (u32 half = across / 2; half > 0; half /= 2) {
        __syncthreads();
        if (own < half) {
            const float x = largests[at + half];
            const u32 class_ = bests[at + half];
            // The first of equals.
            if (x > largests[at] || (x == largests[at] && class_ < bests[at])) largests[at] = x, bests[at] = class_;
        }
    }
    __syncthreads();
    largest = largests[threadIdx.y * across];
    double sum = 0.0, logit_sum = 0.0;
    if (used) {
        for (u32 class_ = own; class_ < p.classes; class_ += across) {
            const double x = widen(logits[class_]);
            sum += exp(x - (double)largest);
            logit_sum += x;
        }
    }
    sums[at] = sum, logit_sums[at] = logit_sum;
    for (u32 half = across / 2; half > 0; half /= 2) {
        __syncthreads();
        if (own < half) sums[at] += sums[at + half], logit_sums[at] += logit_sums[at + half];
    }
    __syncthreads();
    if (!used) return;
    sum = sums[threadIdx.y * across];
    const u32 label = p.labels[row];
    if (own == 0) {
        const double whole = log(sum) + (double)largest;
        double loss = whole - (double)widen(logits[label]);
        // Apart, because a logit of minus infinity makes the mean infinite.
        if (p.smoothing != 0.0) loss = (1.0 - p.smoothing) * loss + p.smoothing * (whole - logit_sums[at] / (double)p.classes);
        p.rows[row].loss = loss;
        p.rows[row].correct = bests[at] == label;
    }
    if (!p.gradient) return;
    T *gradient = (T *)p.gradient + (u64)row * p.padded;
    for (u32 class_ = own; class_ < p.padded; class_ += across) {
        double value = 0.0;
        if (class_ < p.classes) {
            const double target = (class_ == label ? 1.0 - p.smoothing : 0.0) + p.smoothing / (double)p.classes;
            value = (exp((double)widen(logits[class_]) - (double)largest) / sum - target) / (double)p.n;
        }
        narrow((float)value, gradient + class_);
    }
}

INSTANCES(cross_entropy_rows, CrossEntropyRowsParams)

struct CrossEntropyTotalParams {
    const RowLoss *rows;
    Control *control;
    const Group *groups;   // null in evaluation
    StepConstants *constants;  // of the groups, for the step in hand
    OptimizerParams optimizer;
    u32 kind;              // 0 Adam, 1 AdamW, 2 SGD
    u32 group_count;
    u32 n;
};

// One block: adds the batch to the totals; in training also begins the optimizer's step.
extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_total(CrossEntropyTotalParams p) {
    __shared__ double losses[THREADS];
    __shared__ u32 corrects[THREADS];
    Control *control = p.control;
    const bool training = p.groups != 0;
    double total = 0.0;
    u32 correct = 0;
    for (u32 row = threadIdx.x; row < p.n; row += THREADS) {
        total += p.rows[row].loss;
        correct += p.rows[row].correct;
    }
    losses[threadIdx.x] = total, corrects[threadIdx.x] = correct;
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            losses[threadIdx.x] += losses[threadIdx.x + half];
            corrects[threadIdx.x] += corrects[threadIdx.x + half];
        }
    }
    if (training) {
        const double lr = control->lr, momentum = control->momentum, step = (double)(control->step + 1);
        for (u32 i = threadIdx.x; i < p.group_count; i += THREADS) {
            switch (p.kind) {
            case 0: p.constants[i] = group_constants<Adam>(p.optimizer, p.groups[i], lr, momentum, step); break;
            case 1: p.constants[i] = group_constants<AdamW>(p.optimizer, p.groups[i], lr, momentum, step); break;
            case 2: p.constants[i] = group_constants<Sgd>(p.optimizer, p.groups[i], lr, momentum, step); break;
            }
        }
    }
    if (threadIdx.x > 0) return;
    const double mean = losses[0] / (double)p.n;
    if (!is_finite(mean)) stop_at(control, BAD_LOSS, mean, control->step + (training ? 1 : 0));
    if (!control->bad) {
        control->loss_sum += mean * (double)p.n;
        control->correct += corrects[0];
        control->samples += p.n;
        control->last_loss = mean;
    }
    if (training) {
        control->gradient_norm = NAN;
        control->clip = 1.0f;
        control->first = control->step == 0;
    } else {
        control->offset += p.n;
    }
}
