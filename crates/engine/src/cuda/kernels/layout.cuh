// Maps flattened, and channels copied.
#pragma once

#include "common.cuh"

struct MapParams {
    const void *from;
    void *to;
    u32 n, pixels;
    u32 channels, padded;  // without and with padding
    u32 vector;            // length of a flattened image, padded
};

// From maps to vectors in (channels, pixels) order.
template <typename T> __device__ void flatten(const MapParams &p) {
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n * p.vector) return;
    const u32 image = at / p.vector, place = at % p.vector;
    float value = 0.0f;
    if (place < p.channels * p.pixels) {
        const u32 channel = place / p.pixels, pixel = place % p.pixels;
        value = widen(((const T *)p.from)[((u64)image * p.pixels + pixel) * p.padded + channel]);
    }
    narrow(value, (T *)p.to + at);
}

INSTANCES(flatten, MapParams)

template <typename T> __device__ void unflatten(const MapParams &p) {
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n * p.pixels * p.padded) return;
    const u32 channel = at % p.padded, pixel = at / p.padded % p.pixels, image = at / (p.padded * p.pixels);
    float value = 0.0f;
    if (channel < p.channels) value = widen(((const T *)p.from)[(u64)image * p.vector + channel * p.pixels + pixel]);
    narrow(value, (T *)p.to + at);
}

INSTANCES(unflatten, MapParams)

struct CopyChannelsParams {
    const void *from;
    void *to;
    u32 pixels;                  // of all images
    u32 from_padded, from_first; // channels of a pixel there, and the first that is copied
    u32 to_padded, to_first;
    u32 before, channels, span;  // `before` zeros, `channels` copies, and zeros up to `span` channels
};

// Copies a run of channels with zeros around it. A thread has as many channels as a vector, one by one where runs begin within vectors.
template <typename T> __device__ void copy_channels(const CopyChannelsParams &p) {
    const int N = Vector16<T>::N;
    const u32 groups = (p.span + N - 1) / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.pixels * groups) return;
    const u32 pixel = at / groups, place = at % groups * N;
    const T *from = (const T *)p.from + (u64)pixel * p.from_padded + p.from_first;
    T *to = (T *)p.to + (u64)pixel * p.to_padded + p.to_first;
    if (!((p.from_first | p.to_first | p.before | p.channels | p.span) % N)) {
        float v[N];
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = 0.0f;
        if (place - p.before < p.channels) Vector16<T>::load(from + (place - p.before), v);
        Vector16<T>::store(to + place, v);
        return;
    }
    for (u32 c = place; c < place + N && c < p.span; c++) {
        // In front of the run the difference wraps around.
        const float value = c - p.before < p.channels ? widen(from[c - p.before]) : 0.0f;
        narrow(value, to + c);
    }
}

INSTANCES(copy_channels, CopyChannelsParams)
