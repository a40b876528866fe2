// Sums and products of maps.
#pragma once

#include "activation.cuh"

struct ElementsParams {
    const void *a, *b;
    void *out;
    float factor;
    u32 vectors;
    u32 relu;
};

// The sum of two maps, or of one where `b` is null, with ReLU where it is asked for. `out` may be one of them.
template <typename T> __device__ void add(const ElementsParams &p) {
    const int N = Vector16<T>::N;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.vectors) return;
    float a[N], b[N];
    Vector16<T>::load((const T *)p.a + (u64)at * N, a);
    if (p.b) {
        Vector16<T>::load((const T *)p.b + (u64)at * N, b);
#pragma unroll
        for (int k = 0; k < N; k++) a[k] += b[k];
    }
    if (p.relu) {
#pragma unroll
        for (int k = 0; k < N; k++) a[k] = relu(a[k]);
    }
    Vector16<T>::store((T *)p.out + (u64)at * N, a);
}

INSTANCES(add, ElementsParams)

// The gradient `a` where ReLU's output `b` is not zero.
template <typename T> __device__ void relu_backward(const ElementsParams &p) {
    const int N = Vector16<T>::N;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.vectors) return;
    float a[N], b[N];
    Vector16<T>::load((const T *)p.a + (u64)at * N, a);
    Vector16<T>::load((const T *)p.b + (u64)at * N, b);
#pragma unroll
    for (int k = 0; k < N; k++) a[k] = b[k] <= 0.0f ? 0.0f : a[k];
    Vector16<T>::store((T *)p.out + (u64)at * N, a);
}

INSTANCES(relu_backward, ElementsParams)

template <typename T> __device__ void scale(const ElementsParams &p) {
    const int N = Vector16<T>::N;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.vectors) return;
    float a[N];
    Vector16<T>::load((const T *)p.a + (u64)at * N, a);
#pragma unroll
    for (int k = 0; k < N; k++) a[k] *= p.factor;
    Vector16<T>::store((T *)p.out + (u64)at * N, a);
}

INSTANCES(scale, ElementsParams)

struct MultiplyParams {
    const void *a, *b;
    void *out;
    u32 n, pixels, padded;
    // Which factor has one pixel, that stands for every pixel.
    u32 a_is_gate, b_is_gate;
};

template <typename T> __device__ inline void factor(const void *from, u32 gate, const MultiplyParams &p, u32 image, u32 place, float *v) {
    const u64 start = (u64)image * (gate ? p.padded : p.pixels * p.padded);
    Vector16<T>::load((const T *)from + start + (gate ? place % p.padded : place), v);
}

// The product of two maps; `out` may be the first.
template <typename T> __device__ void multiply(const MultiplyParams &p) {
    const int N = Vector16<T>::N;
    const u32 vectors = p.pixels * p.padded / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n * vectors) return;
    const u32 image = at / vectors, place = at % vectors * N;
    float a[N], b[N];
    factor<T>(p.a, p.a_is_gate, p, image, place, a);
    factor<T>(p.b, p.b_is_gate, p, image, place, b);
#pragma unroll
    for (int k = 0; k < N; k++) a[k] *= b[k];
    Vector16<T>::store((T *)p.out + (u64)at * N, a);
}

INSTANCES(multiply, MultiplyParams)

// The gradient of a factor of one pixel: the sum over all pixels of the gradient `a` times the other factors `b`.
template <typename T> __device__ void gate_backward(const MultiplyParams &p) {
    const int N = Vector16<T>::N;
    const u32 vectors = p.padded / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n * vectors) return;
    const u32 image = at / vectors, channel = at % vectors * N;
    float sum[N];
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] = 0.0f;
    for (u32 pixel = 0; pixel < p.pixels; pixel++) {
        float a[N], b[N];
        factor<T>(p.a, 0, p, image, pixel * p.padded + channel, a);
        factor<T>(p.b, p.b_is_gate, p, image, pixel * p.padded + channel, b);
#pragma unroll
        for (int k = 0; k < N; k++) sum[k] = fmaf(a[k], b[k], sum[k]);
    }
    Vector16<T>::store((T *)p.out + (u64)at * N, sum);
}

INSTANCES(gate_backward, MultiplyParams)
