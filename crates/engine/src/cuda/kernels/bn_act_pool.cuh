// BatchNorm or bias, activation and pool in one pass, forward and backward.
#pragma once

#include "activation.cuh"
#include "batch_norm.cuh"
#include "windows.cuh"

// The convolution's results are a map of h x w inside a border of zeros; together height x width.
struct BlockShape {
    u32 n, h, w, border;
    u32 height, width, out_height, out_width;
    u32 channels;
    u32 activation, pool;
    u32 real;     // channels without padding
    float slope;  // LeakyReLU's
};

// What follows BatchNorm or bias. The kernels below have instances for each, so that none carries what it does not use.
enum Tail {
    ACT,       // ReLU or nothing
    ACT_POOL,  // the same, and a maximum over 2 x 2
    OTHER_ACT  // another activation
};

// The results at a pixel of the map with its border; false in the border, where they are zero.
template <typename T>
__device__ inline bool load_result(const BlockShape &s, const T *y, u32 image, u32 row, u32 column, u32 channel, float *v) {
    const u32 r = row - s.border, c = column - s.border;
    // Left of the border the difference wraps around.
    if (r < s.h && c < s.w) {
        Vector16<T>::load(y + (((u64)image * s.h + r) * s.w + c) * s.channels + channel, v);
        return true;
    }
#pragma unroll
    for (int k = 0; k < Vector16<T>::N; k++) v[k] = 0.0f;
    return false;
}

// The results that an output is made of: four where there is a pool, else one.
template <typename T, Tail TAIL> struct PoolWindow {
    static const int N = Vector16<T>::N, SIDE = TAIL == ACT_POOL ? 2 : 1, SIZE = SIDE * SIDE;
    float y[SIZE][N];
    bool inner[SIZE];
    // Which result the output came from (the first of equals, or the last NaN), the result, and its value before the activation.
    int taken[N];
    float source[N];
    float best[N];

    // Whether a map without a border is its own windows.
    static __device__ inline bool is_map(const BlockShape &s) { return SIDE == 1 && s.border == 0; }

    __device__ inline void load_vector(const T *result) {
        inner[0] = true;
        Vector16<T>::load(result, y[0]);
    }

    // Window `at` of all images, of which each has rows x columns.
    __device__ inline void load(const BlockShape &s, const T *results, u32 at, u32 rows, u32 columns, u32 channel) {
        if (is_map(s)) return load_vector(results + (u64)at * s.channels + channel);
        const u32 column = at % columns, row = at / columns % rows, image = at / (columns * rows);
#pragma unroll
        for (int i = 0; i < SIZE; i++) {
            inner[i] = load_result<T>(s, results, image, row * SIDE + i / SIDE, column * SIDE + i % SIDE, channel, y[i]);
        }
    }

    __device__ inline void choose(const float *scale, const float *shift) {
#pragma unroll
        for (int i = 0; i < SIZE; i++) {
#pragma unroll
            for (int k = 0; k < N; k++) {
                const float z = fmaf(scale[k], y[i][k], shift[k]);
                if (i == 0 || replaces(z, best[k])) best[k] = z, source[k] = y[i][k], taken[k] = i;
            }
        }
    }

    // The gradient before the activation.
    __device__ inline float before(const BlockShape &s, int k, float gradient) const {
        if (TAIL == OTHER_ACT) return unactivated(s.activation, s.slope, best[k], gradient);
        return s.activation && best[k] <= 0.0f ? 0.0f : gradient;
    }
};

struct BnActForwardParams {
    const void *y;
    void *out;
    const float *scale, *shift;  // null: 1, 0
    BlockShape shape;
};

template <typename T, Tail TAIL> __device__ void bn_act_pool_forward(const BnActForwardParams &p) {
    const int N = Vector16<T>::N;
    const BlockShape &s = p.shape;
    const u32 vectors = s.channels / N;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= s.n * s.out_height * s.out_width * vectors) return;
    const u32 channel = at % vectors * N;
    PoolWindow<T, TAIL> window;
    window.load(s, (const T *)p.y, at / vectors, s.out_height, s.out_width, channel);
    float scale[N], shift[N];
    load_floats<N>(p.scale ? p.scale + channel : 0, 1.0f, scale);
    load_floats<N>(p.shift ? p.shift + channel : 0, 0.0f, shift);
    window.choose(scale, shift);
    float *out = window.best;
    if (TAIL == OTHER_ACT) {
        // What makes something of zero must not do so of padded channels.
#pragma unroll
        for (int k = 0; k < N; k++) out[k] = channel + k < s.real ? activated(s.activation, s.slope, out[k]) : 0.0f;
    } else if (s.activation) {
#pragma unroll
        for (int k = 0; k < N; k++) out[k] = relu(out[k]);
    }
    Vector16<T>::store((T *)p.out + (u64)at * N, out);
}

INSTANCE(bn_act_forward_f32, BnActForwardParams, bn_act_pool_forward<float, ACT>)
INSTANCE(bn_act_forward_bf16, BnActForwardParams, bn_act_pool_forward<bf16, ACT>)
INSTANCE(bn_act_pool_forward_f32, BnActForwardParams, bn_act_pool_forward<float, ACT_POOL>)
INSTANCE(bn_act_pool_forward_bf16, BnActForwardParams, bn_act_pool_forward<bf16, ACT_POOL>)
INSTANCE(bn_other_act_forward_f32, BnActForwardParams, bn_act_pool_forward<float, OTHER_ACT>)
INSTANCE(bn_other_act_forward_bf16, BnActForwardParams, bn_act_pool_forward<bf16, OTHER_ACT>)

struct BnBackwardReduceParams {
    const void *y, *gradient;
    const float *scale, *shift, *mean;
    float *partials;  // (blocks, 2, channels): the sums of dz and of dz * (y - mean)
    Tiles tiles;      // rows: pixels of the output
    BlockShape shape;
};

template <typename T, Tail TAIL> struct GradientSums {
    static const int N = Vector16<T>::N;
    float scale[N], shift[N], mean[N];
    float sum[N], product[N];

    __device__ inline void clear() {
#pragma unroll
        for (int k = 0; k < N; k++) sum[k] = 0.0f, product[k] = 0.0f;
    }

    __device__ inline void add(const BlockShape &s, PoolWindow<T, TAIL> &window, const float *gradient) {
        window.choose(scale, shift);
#pragma unroll
        for (int k = 0; k < N; k++) {
            const float dz = window.before(s, k, gradient[k]);
            sum[k] += dz;
            product[k] = fmaf(dz, window.source[k] - mean[k], product[k]);
        }
    }
};

template <typename T, Tail TAIL> __device__ void bn_backward_reduce(const BnBackwardReduceParams &p) {
    typedef PoolWindow<T, TAIL> Window;
    const int N = Window::N;
    __shared__ float sums[THREADS * Vector16<T>::N];
    __shared__ float products[THREADS * Vector16<T>::N];
    const BlockShape &s = p.shape;
    const u32 tile = blockIdx.y * blockDim.x + threadIdx.x;
    const u32 at = threadIdx.y * blockDim.x + threadIdx.x;
    const bool used = tile < p.tiles.vectors;
    const u32 first = blockIdx.x * p.tiles.chunk;
    const u32 end = first + p.tiles.chunk < p.tiles.rows ? first + p.tiles.chunk : p.tiles.rows;
    GradientSums<T, TAIL> own;
    own.clear();
    if (used) {
        const u32 channel = tile * N, step = blockDim.y;
        load_floats<N>(p.scale ? p.scale + channel : 0, 1.0f, own.scale);
        load_floats<N>(p.shift ? p.shift + channel : 0, 0.0f, own.shift);
        load_floats<N>(p.mean ? p.mean + channel : 0, 0.0f, own.mean);
        const T *results = (const T *)p.y, *gradients = (const T *)p.gradient + channel;
        u32 pixel = first + threadIdx.y;
        // Eight loads are on their way at a time; otherwise those of a window are.
        if (TAIL == ACT && Window::is_map(s)) {
            for (; pixel + 3 * step < end; pixel += 4 * step) {
                Window window[4];
                float gradient[4][N];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const u64 at = (u64)(pixel + i * step) * s.channels;
                    Vector16<T>::load(gradients + at, gradient[i]);
                    window[i].load_vector(results + at + channel);
                }
#pragma unroll
                for (int i = 0; i < 4; i++) own.add(s, window[i], gradient[i]);
            }
        }
        for (; pixel < end; pixel += step) {
            Window window;
            float gradient[N];
            Vector16<T>::load(gradients + (u64)pixel * s.channels, gradient);
            window.load(s, results, pixel, s.out_height, s.out_width, channel);
            own.add(s, window, gradient);
        }
    }
#pragma unroll
    for (int k = 0; k < N; k++) sums[at * N + k] = own.sum[k], products[at * N + k] = own.product[k];
    for (u32 half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) {
            const u32 other = at + half * blockDim.x;
#pragma unroll
            for (int k = 0; k < N; k++) {
                sums[at * N + k] += sums[other * N + k];
                products[at * N + k] += products[other * N + k];
            }
        }
    }
    __syncthreads();
    if (used && threadIdx.y == 0) {
        float *to = p.partials + (u64)blockIdx.x * 2 * p.tiles.channels + (u64)tile * N;
#pragma unroll
        for (int k = 0; k < N; k++) {
            to[k] = sums[at * N + k];
            to[p.tiles.channels + k] = products[at * N + k];
        }
    }
}

INSTANCE(bn_act_backward_reduce_f32, BnBackwardReduceParams, bn_backward_reduce<float, ACT>)
INSTANCE(bn_act_backward_reduce_bf16, BnBackwardReduceParams, bn_backward_reduce<bf16, ACT>)
INSTANCE(bn_act_pool_backward_reduce_f32, BnBackwardReduceParams, bn_backward_reduce<float, ACT_POOL>)
INSTANCE(bn_act_pool_backward_reduce_bf16, BnBackwardReduceParams, bn_backward_reduce<bf16, ACT_POOL>)
INSTANCE(bn_other_act_backward_reduce_f32, BnBackwardReduceParams, bn_backward_reduce<float, OTHER_ACT>)
INSTANCE(bn_other_act_backward_reduce_bf16, BnBackwardReduceParams, bn_backward_reduce<bf16, OTHER_ACT>)

struct BnBackwardCoefficientsParams {
    const float *partials;
    const float *weight, *inv_std;  // null: no BatchNorm
    float *a, *b, *c;               // dy = a * dz + b * (y - mean) + c
    // BatchNorm's; without it, null and the convolution's bias; null for what is not there.
    float *weight_gradient, *bias_gradient;
    double count;  // values of a channel
    float unit;    // as in BnFinalizeParams
    Tiles tiles;
};

// With s and q the sums of dz and of dz * (y - mean): dy = weight * inv_std * (dz - s / n - (y - mean) * inv_std^2 * q / n).
extern "C" __global__ void __launch_bounds__(THREADS, MERGING_BLOCKS) bn_backward_coefficients(BnBackwardCoefficientsParams p) {
    __shared__ double sums[THREADS], products[THREADS];
    const u32 channel = blockIdx.x * MERGED_CHANNELS + threadIdx.x;
    const u32 at = threadIdx.y * MERGED_CHANNELS + threadIdx.x;
    const u32 channels = p.tiles.channels;
    double s = 0.0, q = 0.0;
    if (channel < channels) {
        const float *partials = p.partials + channel;
        u32 block = threadIdx.y;
        for (; block + 3 * MERGERS < p.tiles.blocks; block += 4 * MERGERS) {
            float sum[4], product[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *from = partials + (u64)(block + i * MERGERS) * 2 * channels;
                sum[i] = from[0], product[i] = from[channels];
            }
#pragma unroll
            for (int i = 0; i < 4; i++) s += (double)sum[i], q += (double)product[i];
        }
        for (; block < p.tiles.blocks; block += MERGERS) {
            const float *from = partials + (u64)block * 2 * channels;
            s += (double)from[0], q += (double)from[channels];
        }
    }
    sums[at] = s, products[at] = q;
    merge_pairs(sums, products);
    if (threadIdx.y > 0 || channel >= channels) return;
    s = sums[at], q = products[at];
    if (p.bias_gradient) p.bias_gradient[channel] = (float)s;
    if (!p.inv_std) return;
    const double inv_std = p.inv_std[channel];
    const double scale = ((double)p.weight[channel] + (double)p.unit) * inv_std;
    p.a[channel] = (float)scale;
    p.b[channel] = (float)(-scale * inv_std * inv_std * q / p.count);
    p.c[channel] = (float)(-scale * s / p.count);
    if (p.weight_gradient) p.weight_gradient[channel] = (float)(q * inv_std);
}

struct BnActBackwardParams {
    const void *y, *gradient;
    void *out;  // of the results, (n, h, w, channels)
    const float *scale, *shift, *mean;
    const float *a, *b, *c;  // null: 1, 0, 0
    BlockShape shape;
};

template <typename T, Tail TAIL> __device__ void bn_act_pool_backward(const BnActBackwardParams &p) {
    typedef PoolWindow<T, TAIL> Window;
    const int N = Window::N, SIDE = Window::SIDE;
    const BlockShape &s = p.shape;
    // A last odd row or column has windows of its own, whose outputs were dropped.
    const u32 rows = (s.height + SIDE - 1) / SIDE, columns = (s.width + SIDE - 1) / SIDE;
    const u32 vectors = s.channels / N;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= s.n * rows * columns * vectors) return;
    const u32 channel = at % vectors * N, place = at / vectors;
    u32 column = 0, row = 0, image = 0;
    if (!Window::is_map(s)) column = place % columns, row = place / columns % rows, image = place / (columns * rows);
    Window window;
    window.load(s, (const T *)p.y, place, rows, columns, channel);
    float gradient[N];
#pragma unroll
    for (int k = 0; k < N; k++) gradient[k] = 0.0f;
    if (TAIL != ACT_POOL) {
        Vector16<T>::load((const T *)p.gradient + (u64)at * N, gradient);
    } else if (row < s.out_height && column < s.out_width) {
        const u64 pixel = ((u64)image * s.out_height + row) * s.out_width + column;
        Vector16<T>::load((const T *)p.gradient + pixel * s.channels + channel, gradient);
    }
    float scale[N], shift[N];
    load_floats<N>(p.scale ? p.scale + channel : 0, 1.0f, scale);
    load_floats<N>(p.shift ? p.shift + channel : 0, 0.0f, shift);
    window.choose(scale, shift);
#pragma unroll
    for (int k = 0; k < N; k++) gradient[k] = window.before(s, k, gradient[k]);
    float mean[N], a[N], b[N], c[N];
    load_floats<N>(p.mean ? p.mean + channel : 0, 0.0f, mean);
    load_floats<N>(p.a ? p.a + channel : 0, 1.0f, a);
    load_floats<N>(p.b ? p.b + channel : 0, 0.0f, b);
    load_floats<N>(p.c ? p.c + channel : 0, 0.0f, c);
#pragma unroll
    for (int i = 0; i < Window::SIZE; i++) {
        if (!window.inner[i]) continue;
        float dy[N];
#pragma unroll
        for (int k = 0; k < N; k++) {
            const float dz = window.taken[k] == i ? gradient[k] : 0.0f;
            dy[k] = fmaf(a[k], dz, fmaf(b[k], window.y[i][k] - mean[k], c[k]));
        }
        u64 result = place;
        if (!Window::is_map(s)) {
            const u32 r = row * SIDE + i / SIDE - s.border, k = column * SIDE + i % SIDE - s.border;
            result = ((u64)image * s.h + r) * s.w + k;
        }
        Vector16<T>::store((T *)p.out + result * s.channels + channel, dy);
    }
}

INSTANCE(bn_act_backward_f32, BnActBackwardParams, bn_act_pool_backward<float, ACT>)
INSTANCE(bn_act_backward_bf16, BnActBackwardParams, bn_act_pool_backward<bf16, ACT>)
INSTANCE(bn_act_pool_backward_f32, BnActBackwardParams, bn_act_pool_backward<float, ACT_POOL>)
INSTANCE(bn_act_pool_backward_bf16, BnActBackwardParams, bn_act_pool_backward<bf16, ACT_POOL>)
INSTANCE(bn_other_act_backward_f32, BnActBackwardParams, bn_act_pool_backward<float, OTHER_ACT>)
INSTANCE(bn_other_act_backward_bf16, BnActBackwardParams, bn_act_pool_backward<bf16, OTHER_ACT>)
