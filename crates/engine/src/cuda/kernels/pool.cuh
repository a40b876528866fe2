// Pools of any window, and the average of a whole map.
#pragma once

#include "layout.cuh"
#include "windows.cuh"

struct PoolParams {
    const void *x, *gradient;
    void *out;
    Windows windows;
    u32 padded;
    u32 include_padding;  // an average's divisor is the whole window
};

template <typename T> __device__ void max_pool_forward(const PoolParams &p) {
    const int N = Vector16<T>::N;
    const Windows &w = p.windows;
    const u32 vectors = p.padded / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= w.n * w.out_height * w.out_width * vectors) return;
    const u32 channel = at % vectors * N, place = at / vectors;
    const u32 column = place % w.out_width, row = place / w.out_width % w.out_height;
    const u32 image = place / (w.out_width * w.out_height);
    const Range rows = covered(row, w.kernel[0], w.stride[0], w.padding[0], w.height);
    const Range columns = covered(column, w.kernel[1], w.stride[1], w.padding[1], w.width);
    float best[N];
    bool begun = false;
    for (u32 r = rows.first; r < rows.end; r++) {
        for (u32 c = columns.first; c < columns.end; c++) {
            float v[N];
            Vector16<T>::load((const T *)p.x + (((u64)image * w.height + r) * w.width + c) * p.padded + channel, v);
#pragma unroll
            for (int k = 0; k < N; k++) {
                if (!begun || replaces(v[k], best[k])) best[k] = v[k];
            }
            begun = true;
        }
    }
    Vector16<T>::store((T *)p.out + (u64)at * N, best);
}

INSTANCES(max_pool_forward, PoolParams)

// A thread has a vector of the input, and finds again which of the windows over it took it.
template <typename T> __device__ void max_pool_backward(const PoolParams &p) {
    const int N = Vector16<T>::N;
    const Windows &w = p.windows;
    const u32 vectors = p.padded / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= w.n * w.height * w.width * vectors) return;
    const u32 channel = at % vectors * N, place = at / vectors;
    const u32 own_column = place % w.width, own_row = place / w.width % w.height;
    const u32 image = place / (w.width * w.height);
    const u32 own = own_row * w.width + own_column;
    const Range outer = covering(own_row, w.kernel[0], w.stride[0], w.padding[0], w.out_height);
    const Range inner = covering(own_column, w.kernel[1], w.stride[1], w.padding[1], w.out_width);
    float sum[N];
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] = 0.0f;
    for (u32 row = outer.first; row < outer.end; row++) {
        for (u32 column = inner.first; column < inner.end; column++) {
            const Range rows = covered(row, w.kernel[0], w.stride[0], w.padding[0], w.height);
            const Range columns = covered(column, w.kernel[1], w.stride[1], w.padding[1], w.width);
            float best[N];
            u32 taken[N];
            bool begun = false;
            for (u32 r = rows.first; r < rows.end; r++) {
                for (u32 c = columns.first; c < columns.end; c++) {
                    float v[N];
                    Vector16<T>::load((const T *)p.x + (((u64)image * w.height + r) * w.width + c) * p.padded + channel, v);
#pragma unroll
                    for (int k = 0; k < N; k++) {
                        if (!begun || replaces(v[k], best[k])) best[k] = v[k], taken[k] = r * w.width + c;
                    }
                    begun = true;
                }
            }
            float gradient[N];
            const u64 pixel = ((u64)image * w.out_height + row) * w.out_width + column;
            Vector16<T>::load((const T *)p.gradient + pixel * p.padded + channel, gradient);
#pragma unroll
            for (int k = 0; k < N; k++) {
                if (taken[k] == own) sum[k] += gradient[k];
            }
        }
    }
    Vector16<T>::store((T *)p.out + (u64)at * N, sum);
}

INSTANCES(max_pool_backward, PoolParams)

__device__ inline float divisor(const PoolParams &p, Range rows, Range columns) {
    const Windows &w = p.windows;
    return (float)(p.include_padding ? w.kernel[0] * w.kernel[1] : (rows.end - rows.first) * (columns.end - columns.first));
}

template <typename T> __device__ void avg_pool_forward(const PoolParams &p) {
    const int N = Vector16<T>::N;
    const Windows &w = p.windows;
    const u32 vectors = p.padded / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= w.n * w.out_height * w.out_width * vectors) return;
    const u32 channel = at % vectors * N, place = at / vectors;
    const u32 column = place % w.out_width, row = place / w.out_width % w.out_height;
    const u32 image = place / (w.out_width * w.out_height);
    const Range rows = covered(row, w.kernel[0], w.stride[0], w.padding[0], w.height);
    const Range columns = covered(column, w.kernel[1], w.stride[1], w.padding[1], w.width);
    float sum[N];
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] = 0.0f;
    for (u32 r = rows.first; r < rows.end; r++) {
        for (u32 c = columns.first; c < columns.end; c++) {
            float v[N];
            Vector16<T>::load((const T *)p.x + (((u64)image * w.height + r) * w.width + c) * p.padded + channel, v);
#pragma unroll
            for (int k = 0; k < N; k++) sum[k] += v[k];
        }
    }
    const float by = divisor(p, rows, columns);
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] /= by;
    Vector16<T>::store((T *)p.out + (u64)at * N, sum);
}

INSTANCES(avg_pool_forward, PoolParams)

template <typename T> __device__ void avg_pool_backward(const PoolParams &p) {
    const int N = Vector16<T>::N;
    const Windows &w = p.windows;
    const u32 vectors = p.padded / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= w.n * w.height * w.width * vectors) return;
    const u32 channel = at % vectors * N, place = at / vectors;
    const u32 own_column = place % w.width, own_row = place / w.width % w.height;
    const u32 image = place / (w.width * w.height);
    const Range outer = covering(own_row, w.kernel[0], w.stride[0], w.padding[0], w.out_height);
    const Range inner = covering(own_column, w.kernel[1], w.stride[1], w.padding[1], w.out_width);
    float sum[N];
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] = 0.0f;
    for (u32 row = outer.first; row < outer.end; row++) {
        for (u32 column = inner.first; column < inner.end; column++) {
            const float by = divisor(p, covered(row, w.kernel[0], w.stride[0], w.padding[0], w.height),
                                     covered(column, w.kernel[1], w.stride[1], w.padding[1], w.width));
            float gradient[N];
            const u64 pixel = ((u64)image * w.out_height + row) * w.out_width + column;
            Vector16<T>::load((const T *)p.gradient + pixel * p.padded + channel, gradient);
#pragma unroll
            for (int k = 0; k < N; k++) sum[k] += gradient[k] / by;
        }
    }
    Vector16<T>::store((T *)p.out + (u64)at * N, sum);
}

INSTANCES(avg_pool_backward, PoolParams)

// The average of each channel of a map.
template <typename T> __device__ void global_avg_pool_forward(const MapParams &p) {
    const int N = Vector16<T>::N;
    const u32 vectors = p.padded / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n * vectors) return;
    const T *from = (const T *)p.from + (u64)(at / vectors) * p.pixels * p.padded + at % vectors * N;
    float sum[N];
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] = 0.0f;
    for (u32 pixel = 0; pixel < p.pixels; pixel++) {
        float v[N];
        Vector16<T>::load(from + (u64)pixel * p.padded, v);
#pragma unroll
        for (int k = 0; k < N; k++) sum[k] += v[k];
    }
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] /= (float)p.pixels;
    Vector16<T>::store((T *)p.to + (u64)at * N, sum);
}

INSTANCES(global_avg_pool_forward, MapParams)

// The adjoint: from vectors to maps.
template <typename T> __device__ void global_avg_pool_backward(const MapParams &p) {
    const int N = Vector16<T>::N;
    const u32 vectors = p.padded / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n * p.pixels * vectors) return;
    const u32 image = at / (vectors * p.pixels);
    float v[N];
    Vector16<T>::load((const T *)p.from + (u64)image * p.padded + at % vectors * N, v);
#pragma unroll
    for (int k = 0; k < N; k++) v[k] /= (float)p.pixels;
    Vector16<T>::store((T *)p.to + (u64)at * N, v);
}

INSTANCES(global_avg_pool_backward, MapParams)
