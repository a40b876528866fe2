// Dropout.
#pragma once

#include "control.cuh"
#include "random.cuh"

struct DropoutParams {
    const void *from;
    void *to;
    const Control *control;
    u64 seed;
    u32 layer;
    float threshold, scale;
    u32 n, pixels, channels, padded;
};

// Forward and backward alike: the factors are drawn again. They are counted in (images, channels, pixels) order.
template <typename T> __device__ void dropout(const DropoutParams &p) {
    const int N = Vector16<T>::N;
    const u32 vectors = p.padded / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n * p.pixels * vectors) return;
    const u32 first = at % vectors * N, pixel = at / vectors % p.pixels, image = at / (vectors * p.pixels);
    float v[N];
    Vector16<T>::load((const T *)p.from + (u64)at * N, v);
    u64 group = ~(u64)0;
    u32 words[4] = {0, 0, 0, 0};
#pragma unroll
    for (int k = 0; k < N; k++) {
        const u32 channel = first + k;
        if (channel >= p.channels) {
            v[k] = 0.0f;
            continue;
        }
        const u64 element = ((u64)image * p.channels + channel) * p.pixels + pixel;
        if (element / 4 != group) {
            group = element / 4;
            philox(p.seed, DROPOUT, (u32)p.control->step, (u64)p.layer << 32 | group, words);
        }
        const u32 in_group = (u32)(element % 4);
        const u32 word = in_group == 0 ? words[0] : in_group == 1 ? words[1] : in_group == 2 ? words[2] : words[3];
        const float unit = (float)(word >> 8) * (1.0f / 16777216.0f);
        v[k] = unit >= p.threshold ? v[k] * p.scale : v[k] * 0.0f;
    }
    Vector16<T>::store((T *)p.to + (u64)at * N, v);
}

INSTANCES(dropout, DropoutParams)
