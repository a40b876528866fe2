// Clipping, optimizers, the moving average, slow weights.
#pragma once

#include "control.cuh"

// An optimizer is a structure of two functions: the constants of a step for a group of parameters, and the step. Its operations and
// their order are PyTorch's (torch/optim, the _single_tensor functions).

// A group of parameters. The factor of one that stands still is negative.
struct Group {
    double lr_factor, weight_decay;
};

// Of a step for a group; what they mean is the optimizer's. A negative rate says that the group stands still.
struct alignas(16) StepConstants {
    float rate, decay, momentum, inverse_root;
};

// What stays from step to step.
struct OptimizerParams {
    double second_beta;
    float second_decay, second_rate, eps;
    u32 nesterov;
};

template <class Optimizer>
__device__ inline StepConstants group_constants(const OptimizerParams &o, const Group &group, double lr, double momentum, double step) {
    StepConstants c = Optimizer::constants(o, group, lr, momentum, step);
    if (group.lr_factor < 0.0) c.rate = -1.0f;
    return c;
}

// Moves the moments on by a gradient, and gives how far the value goes down.
__device__ inline float adam_movement(const OptimizerParams &o, const StepConstants &c, float gradient, float &first, float &second) {
    first += (gradient - first) * c.momentum;
    second = second * o.second_decay + gradient * gradient * o.second_rate;
    return first / (sqrtf(second) * c.inverse_root + o.eps) * c.rate;
}

__device__ inline StepConstants adam_constants(const OptimizerParams &o, double lr, double first_beta, double step) {
    StepConstants c;
    c.rate = (float)(lr / (1.0 - pow(first_beta, step)));
    c.decay = 0.0f;
    c.momentum = (float)(1.0 - first_beta);
    c.inverse_root = (float)(1.0 / sqrt(1.0 - pow(o.second_beta, step)));
    return c;
}


// With the L2 penalty in the gradient.
struct Adam {
    static const bool SECOND = true;
    static __device__ inline StepConstants constants(const OptimizerParams &o, const Group &group, double lr, double momentum, double step) {
        StepConstants c = adam_constants(o, lr * group.lr_factor, momentum, step);
        c.decay = (float)group.weight_decay;
        return c;
    }
    static __device__ inline void step(const OptimizerParams &o, const StepConstants &c, float gradient, float &value, float &first, float &second) {
        value -= adam_movement(o, c, gradient + c.decay * value, first, second);
    }
};


// The values shrink by themselves.
struct AdamW {
    static const bool SECOND = true;
    static __device__ inline StepConstants constants(const OptimizerParams &o, const Group &group, double lr, double momentum, double step) {
        StepConstants c = adam_constants(o, lr * group.lr_factor, momentum, step);
        c.decay = (float)(1.0 - lr * group.lr_factor * group.weight_decay);
        return c;
    }
    static __device__ inline void step(const OptimizerParams &o, const StepConstants &c, float gradient, float &value, float &first, float &second) {
        value = value * c.decay - adam_movement(o, c, gradient, first, second);
    }
};


// `first` is the momentum buffer. Without momentum it is neither read nor written: it stays what it is.
struct Sgd {
    static const bool SECOND = false;
    static __device__ inline StepConstants constants(const OptimizerParams &, const Group &group, double lr, double momentum, double) {
        StepConstants c;
        c.rate = (float)(lr * group.lr_factor);
        c.decay = (float)group.weight_decay;
        c.momentum = (float)momentum;
        c.inverse_root = 0.0f;
        return c;
    }
    static __device__ inline void step(const OptimizerParams &o, const StepConstants &c, float gradient, float &value, float &first, float &) {
        float direction = gradient + c.decay * value;
        if (c.momentum != 0.0f) {
            first = c.momentum * first + direction;
            direction = o.nesterov ? direction + c.momentum * first : first;
        }
        value -= direction * c.rate;
    }
};

// Four gradients: those of the weights have the type of the products.
template <typename T>
__device__ inline void load_gradients(const void *weight_gradients, const float *vector_gradients, u32 weights, u32 at, float *v) {
    if (at < weights) {
        Quad<T>::load((const T *)weight_gradients + at, v);
    } else {
        Vector16<float>::load(vector_gradients + (at - weights), v);
    }
}

struct GradientNormParams {
    const void *weight_gradients;
    const float *vector_gradients;
    double *partials;  // (blocks)
    Control *control;
    double most;       // the largest norm that stays
    u32 weights, length, blocks;
};

// For the first thread.
__device__ inline double block_sum(double sum) {
    __shared__ double sums[THREADS];
    sums[threadIdx.x] = sum;
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    return sums[0];
}

// Sums of the squares of all gradients, one a block.
template <typename T> __device__ void gradient_squares(const GradientNormParams &p) {
    double sum = 0.0;
    for (u32 at = (blockIdx.x * THREADS + threadIdx.x) * 4; at < p.length; at += p.blocks * THREADS * 4) {
        float gradient[4];
        load_gradients<T>(p.weight_gradients, p.vector_gradients, p.weights, at, gradient);
#pragma unroll
        for (int k = 0; k < 4; k++) sum += (double)gradient[k] * (double)gradient[k];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) p.partials[blockIdx.x] = sum;
}

INSTANCES(gradient_squares, GradientNormParams)

// One block: the norm, and what brings it down to `most` (torch.nn.utils.clip_grad_norm_).
extern "C" __global__ void __launch_bounds__(THREADS) clip_gradients(GradientNormParams p) {
    double sum = 0.0;
    for (u32 block = threadIdx.x; block < p.blocks; block += THREADS) sum += p.partials[block];
    sum = block_sum(sum);
    Control *control = p.control;
    if (threadIdx.x > 0) return;
    const double norm = sqrt(sum);
    if (!is_finite(norm)) stop_at(control, BAD_GRADIENT_NORM, norm, control->step + 1);
    const double factor = p.most / (norm + 1e-6);
    control->gradient_norm = norm;
    control->clip = factor < 1.0 ? (float)factor : 1.0f;
}


struct UpdateParams {
    float *values, *first, *second;          // weights, then vectors; `second` is null where the optimizer has none
    const void *weight_gradients;            // of the weights, in the type of the products
    const float *vector_gradients;
    bf16 *copies;                            // of the weights, for the products; null where those read the values
    float *statistics;                       // BatchNorm's
    float *average, *average_statistics;     // moving averages of values and statistics; null without them
    Control *control;
    const StepConstants *constants;
    const u32 *groups;                       // of each four numbers; null: there is one group
    OptimizerParams optimizer;
    float average_share;                     // as in `lerp`
    u32 from_average;
    u32 weights, length, statistics_length;  // multiples of 8
    u32 n;                                   // images in the batch
};

// The way of torch.lerp: from the nearer end, which is met exactly; the share is that of the other.
__device__ inline float lerp(u32 from_average, float share, float average, float value) {
    const float start = from_average ? average : value, end = from_average ? value : average;
    return start + share * (end - start);
}

// The first step's values are what the average begins with.
__device__ inline void averaged(const UpdateParams &p, u32 is_first, float *average, const float *v) {
    float old[4];
    Vector16<float>::load(average, old);
#pragma unroll
    for (int k = 0; k < 4; k++) old[k] = is_first ? v[k] : lerp(p.from_average, p.average_share, old[k], v[k]);
    Vector16<float>::store(average, old);
}

// Four numbers a thread: parameters, then, where there is an average, statistics. The last kernel of a training step: it advances what
// the next step begins with. After a value that is not finite nothing changes any more.
template <typename T, class Optimizer> __device__ void update(const UpdateParams &p) {
    Control *control = p.control;
    if (control->bad) return;
    const u32 at = (blockIdx.x * THREADS + threadIdx.x) * 4;
    if (at < p.length) {
        const StepConstants c = p.constants[p.groups ? p.groups[at / 4] : 0];
        const float clip = control->clip;
        float value[4], first[4], second[4], gradient[4];
        Vector16<float>::load(p.values + at, value);
        Vector16<float>::load(p.first + at, first);
        if (Optimizer::SECOND) Vector16<float>::load(p.second + at, second);
        load_gradients<T>(p.weight_gradients, p.vector_gradients, p.weights, at, gradient);
        if (c.rate >= 0.0f) {
#pragma unroll
            for (int k = 0; k < 4; k++) Optimizer::step(p.optimizer, c, gradient[k] * clip, value[k], first[k], second[k]);
            Vector16<float>::store(p.values + at, value);
            Vector16<float>::store(p.first + at, first);
            if (Optimizer::SECOND) Vector16<float>::store(p.second + at, second);
            if (p.copies && at < p.weights) Quad<bf16>::store(p.copies + at, value);
        }
        if (p.average) averaged(p, control->first, p.average + at, value);
    } else if (p.average && at - p.length < p.statistics_length) {
        float v[4];
        Vector16<float>::load(p.statistics + (at - p.length), v);
        averaged(p, control->first, p.average_statistics + (at - p.length), v);
    }
    // No other thread reads these two.
    if (at == 0) {
        control->step += 1;
        control->offset += p.n;
    }
}

INSTANCE(adam_f32, UpdateParams, update<float, Adam>)
INSTANCE(adam_bf16, UpdateParams, update<bf16, Adam>)
INSTANCE(adamw_f32, UpdateParams, update<float, AdamW>)
INSTANCE(adamw_bf16, UpdateParams, update<bf16, AdamW>)
INSTANCE(sgd_f32, UpdateParams, update<float, Sgd>)
INSTANCE(sgd_bf16, UpdateParams, update<bf16, Sgd>)

struct SwapAverageParams {
    float *values, *average;
    float *statistics, *average_statistics;
    bf16 *copies;  // renewed; null where there are none
    u32 weights, length, statistics_length;
};

// Averages change places with what was trained: recorded steps know one address of each.
extern "C" __global__ void __launch_bounds__(THREADS) swap_average(SwapAverageParams p) {
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at < p.length) {
        const float value = p.average[at];
        p.average[at] = p.values[at];
        p.values[at] = value;
        if (p.copies && at < p.weights) narrow(value, p.copies + at);
    } else if (at - p.length < p.statistics_length) {
        const u32 own = at - p.length;
        const float value = p.average_statistics[own];
        p.average_statistics[own] = p.statistics[own];
        p.statistics[own] = value;
    }
}

struct LookaheadParams {
    float *values, *slow;
    float *statistics, *slow_statistics;
    bf16 *copies;  // renewed; null where there are none
    const Control *control;
    float share;   // as in `lerp`
    u32 from_slow;
    u32 weights, length, statistics_length;
};

// Averages what was trained into the slow weights, and sets it to them. After a value that is not finite nothing changes any more.
extern "C" __global__ void __launch_bounds__(THREADS) lookahead(LookaheadParams p) {
    if (p.control->bad) return;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at < p.length) {
        const float value = lerp(p.from_slow, p.share, p.slow[at], p.values[at]);
        p.slow[at] = value;
        p.values[at] = value;
        if (p.copies && at < p.weights) narrow(value, p.copies + at);
    } else if (at - p.length < p.statistics_length) {
        const u32 own = at - p.length;
        const float value = lerp(p.from_slow, p.share, p.slow_statistics[own], p.statistics[own]);
        p.slow_statistics[own] = value;
        p.statistics[own] = value;
    }
}
