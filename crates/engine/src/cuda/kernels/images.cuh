// A batch of images in the layout of the maps.
#pragma once

#include "control.cuh"
#include "random.cuh"

struct GatherAugmentBatchParams {
    const unsigned char *images;  // (all, channels, height, width)
    const u16 *labels;
    const u32 *order;             // null: as they lie
    const float *values;          // (channels, 256): what each byte becomes
    const Control *control;
    void *out;                    // (n, height, width, padded)
    u16 *out_labels;
    u64 seed;
    u32 n, channels, height, width, padded;
    // Black pixels on each side before a random crop and flip; below zero: neither.
    int margin;
};

template <typename T> __device__ void gather_augment_batch(const GatherAugmentBatchParams &p) {
    const u32 pixels = p.height * p.width;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n * pixels) return;
    const u32 i = at / pixels, pixel = at % pixels;
    const u32 row = pixel / p.width, column = pixel % p.width;
    const u32 place = p.control->offset + i;
    const u32 sample = p.order ? p.order[place] : place;
    if (pixel == 0) p.out_labels[i] = p.labels[sample];
    int y = (int)row, x = (int)column;
    if (p.margin >= 0) {
        u32 words[4];
        philox(p.seed, AUGMENT, p.control->epoch, sample, words);
        const u32 offsets = 2 * (u32)p.margin + 1;
        if (words[2] >> 31) x = (int)p.width - 1 - x;
        y += (int)below(words[0], offsets) - p.margin;
        x += (int)below(words[1], offsets) - p.margin;
    }
    const bool inside = y >= 0 && y < (int)p.height && x >= 0 && x < (int)p.width;
    T *out = (T *)p.out + (u64)at * p.padded;
    const unsigned char *image = p.images + (u64)sample * p.channels * pixels;
    const int N = Vector16<T>::N;
    for (u32 first = 0; first < p.padded; first += N) {
        float v[N];
#pragma unroll
        for (int k = 0; k < N; k++) {
            const u32 c = first + k;
            v[k] = 0.0f;
            if (c < p.channels) {
                const u32 byte = inside ? image[(u64)c * pixels + (u32)y * p.width + (u32)x] : 0;
                v[k] = p.values[c * 256 + byte];
            }
        }
        Vector16<T>::store(out + first, v);
    }
}

INSTANCES(gather_augment_batch, GatherAugmentBatchParams)

struct NchwToNhwcParams {
    const float *images;  // (n, channels, pixels)
    void *out;            // (n, pixels, padded)
    u32 n, channels, pixels, padded;
};

template <typename T> __device__ void nchw_to_nhwc(const NchwToNhwcParams &p) {
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n * p.pixels) return;
    const u32 i = at / p.pixels, pixel = at % p.pixels;
    T *out = (T *)p.out + (u64)at * p.padded;
    const int N = Vector16<T>::N;
    for (u32 first = 0; first < p.padded; first += N) {
        float v[N];
#pragma unroll
        for (int k = 0; k < N; k++) {
            const u32 c = first + k;
            v[k] = c < p.channels ? p.images[((u64)i * p.channels + c) * p.pixels + pixel] : 0.0f;
        }
        Vector16<T>::store(out + first, v);
    }
}

INSTANCES(nchw_to_nhwc, NchwToNhwcParams)
