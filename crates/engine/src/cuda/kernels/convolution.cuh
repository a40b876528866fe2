// Convolutions of groups that cuDNN does not take.
#pragma once

#include "common.cuh"
#include "windows.cuh"

struct GroupedConvParams {
    const void *x, *w, *y;  // the input, the weights and the gradient of the results, where they are read
    void *out;
    Windows windows;
    u32 in_padded, out_padded;
    // Input and output channels of a group, and outputs that have weights: (outputs, rows, columns, in_group). Where a group is one
    // channel on either side (`depthwise`), the weights are (rows, columns, out_padded).
    u32 in_group, out_group, outputs;
    u32 depthwise;
};

template <typename T> __device__ void grouped_conv_forward(const GroupedConvParams &p) {
    const int N = Vector16<T>::N;
    const Windows &w = p.windows;
    const u32 vectors = p.out_padded / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= w.n * w.out_height * w.out_width * vectors) return;
    const u32 channel = at % vectors * N, place = at / vectors;
    const u32 column = place % w.out_width, row = place / w.out_width % w.out_height;
    const u32 image = place / (w.out_width * w.out_height);
    const u32 taps = w.kernel[0] * w.kernel[1];
    float sum[N];
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] = 0.0f;
    for (u32 r = 0; r < w.kernel[0]; r++) {
        // Beyond the first row the difference wraps around.
        const u32 y = row * w.stride[0] + r - w.padding[0];
        if (y >= w.height) continue;
        for (u32 c = 0; c < w.kernel[1]; c++) {
            const u32 x = column * w.stride[1] + c - w.padding[1];
            if (x >= w.width) continue;
            const u32 tap = r * w.kernel[1] + c;
            const T *from = (const T *)p.x + (((u64)image * w.height + y) * w.width + x) * p.in_padded;
            if (p.depthwise) {
                float v[N], weight[N];
                Vector16<T>::load(from + channel, v);
                Vector16<T>::load((const T *)p.w + (u64)tap * p.out_padded + channel, weight);
#pragma unroll
                for (int k = 0; k < N; k++) sum[k] = fmaf(v[k], weight[k], sum[k]);
                continue;
            }
            for (int k = 0; k < N; k++) {
                const u32 out = channel + k;
                if (out >= p.outputs) break;
                const T *weights = (const T *)p.w + ((u64)out * taps + tap) * p.in_group;
                const T *own = from + out / p.out_group * p.in_group;
                for (u32 i = 0; i < p.in_group; i++) sum[k] = fmaf(widen(own[i]), widen(weights[i]), sum[k]);
            }
        }
    }
    Vector16<T>::store((T *)p.out + (u64)at * N, sum);
}

INSTANCES(grouped_conv_forward, GroupedConvParams)

// The gradient of the input: a thread has a vector of it, and gathers from the results that were made of it.
template <typename T> __device__ void grouped_conv_backward_data(const GroupedConvParams &p) {
    const int N = Vector16<T>::N;
    const Windows &w = p.windows;
    const u32 vectors = p.in_padded / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= w.n * w.height * w.width * vectors) return;
    const u32 channel = at % vectors * N, place = at / vectors;
    const u32 own_column = place % w.width, own_row = place / w.width % w.height;
    const u32 image = place / (w.width * w.height);
    const u32 taps = w.kernel[0] * w.kernel[1];
    const Range rows = covering(own_row, w.kernel[0], w.stride[0], w.padding[0], w.out_height);
    const Range columns = covering(own_column, w.kernel[1], w.stride[1], w.padding[1], w.out_width);
    float sum[N];
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] = 0.0f;
    for (u32 row = rows.first; row < rows.end; row++) {
        for (u32 column = columns.first; column < columns.end; column++) {
            const u32 r = own_row + w.padding[0] - row * w.stride[0], c = own_column + w.padding[1] - column * w.stride[1];
            const u32 tap = r * w.kernel[1] + c;
            const T *from = (const T *)p.y + (((u64)image * w.out_height + row) * w.out_width + column) * p.out_padded;
            if (p.depthwise) {
                float v[N], weight[N];
                Vector16<T>::load(from + channel, v);
                Vector16<T>::load((const T *)p.w + (u64)tap * p.out_padded + channel, weight);
#pragma unroll
                for (int k = 0; k < N; k++) sum[k] = fmaf(v[k], weight[k], sum[k]);
                continue;
            }
            for (int k = 0; k < N; k++) {
                const u32 group = (channel + k) / p.in_group, in = (channel + k) % p.in_group;
                for (u32 out = group * p.out_group; out < (group + 1) * p.out_group && out < p.outputs; out++) {
                    const T *weights = (const T *)p.w + ((u64)out * taps + tap) * p.in_group;
                    sum[k] = fmaf(widen(from[out]), widen(weights[in]), sum[k]);
                }
            }
        }
    }
    Vector16<T>::store((T *)p.out + (u64)at * N, sum);
}

INSTANCES(grouped_conv_backward_data, GroupedConvParams)

struct GroupedConvFilterParams {
    GroupedConvParams convolution;  // `x` and `y` are read, `out` is not used
    float *partials;            // (chunks, weights)
    u32 weights, chunk;
};

// Partial sums of the gradient of the weights, over `chunk` pixels: a block of (32, 8) threads has 32 weights, each by eight threads.
template <typename T> __device__ void grouped_conv_backward_filter(const GroupedConvFilterParams &p) {
    __shared__ float sums[THREADS];
    const GroupedConvParams &g = p.convolution;
    const Windows &w = g.windows;
    const u32 weight = blockIdx.x * 32 + threadIdx.x, taps = w.kernel[0] * w.kernel[1];
    float sum = 0.0f;
    if (weight < p.weights) {
        u32 out, in, tap;
        if (g.depthwise) {
            out = in = weight % g.out_padded, tap = weight / g.out_padded;
        } else {
            out = weight / (taps * g.in_group), tap = weight / g.in_group % taps;
            in = out / g.out_group * g.in_group + weight % g.in_group;
        }
        const u32 r = tap / w.kernel[1], c = tap % w.kernel[1];
        const u32 pixels = w.n * w.out_height * w.out_width, first = blockIdx.y * p.chunk;
        const u32 end = first + p.chunk < pixels ? first + p.chunk : pixels;
        for (u32 pixel = first + threadIdx.y; pixel < end; pixel += THREADS / 32) {
            const u32 column = pixel % w.out_width, row = pixel / w.out_width % w.out_height;
            const u32 image = pixel / (w.out_width * w.out_height);
            const u32 y = row * w.stride[0] + r - w.padding[0], x = column * w.stride[1] + c - w.padding[1];
            if (y >= w.height || x >= w.width) continue;
            const T value = ((const T *)g.x)[(((u64)image * w.height + y) * w.width + x) * g.in_padded + in];
            sum = fmaf(widen(value), widen(((const T *)g.y)[(u64)pixel * g.out_padded + out]), sum);
        }
    }
    sums[threadIdx.y * 32 + threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || weight >= p.weights) return;
    for (u32 other = threadIdx.x + 32; other < THREADS; other += 32) sum += sums[other];
    p.partials[(u64)blockIdx.y * p.weights + weight] = sum;
}

INSTANCES(grouped_conv_backward_filter, GroupedConvFilterParams)

struct MergeFilterPartialsParams {
    const float *partials;
    void *out;
    u32 weights, chunks;
};

template <typename T> __device__ void merge_filter_partials(const MergeFilterPartialsParams &p) {
    const u32 weight = blockIdx.x * THREADS + threadIdx.x;
    if (weight >= p.weights) return;
    float sum = 0.0f;
    for (u32 chunk = 0; chunk < p.chunks; chunk++) sum += p.partials[(u64)chunk * p.weights + weight];
    narrow(sum, (T *)p.out + weight);
}

INSTANCES(merge_filter_partials, MergeFilterPartialsParams)
