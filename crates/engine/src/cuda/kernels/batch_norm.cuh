// BatchNorm's statistics.
#pragma once

#include "common.cuh"

// How a matrix of rows and vectors of channels is shared out: a block of (columns, 256 / columns) threads sums `chunk` rows of
// `columns` vectors.
struct Tiles {
    u32 rows, chunk, blocks;
    u32 vectors, channels;
};

struct BatchMomentsParams {
    const void *y;    // (rows, channels)
    float *partials;  // (blocks, 2, channels): mean and sum of squared distances from it
    Tiles tiles;
};

// Sums of the distances from a pivot and of their squares.
template <int N> struct Moments {
    float pivot[N], sum[N], square[N], count;

    __device__ inline void clear() {
#pragma unroll
        for (int k = 0; k < N; k++) pivot[k] = 0.0f, sum[k] = 0.0f, square[k] = 0.0f;
        count = 0.0f;
    }

    __device__ inline void add(const float *v) {
        count += 1.0f;
#pragma unroll
        for (int k = 0; k < N; k++) {
            const float d = v[k] - pivot[k];
            sum[k] += d;
            square[k] = fmaf(d, d, square[k]);
        }
    }
};

// The distances are from a value of the thread's own, its first; means and sums are merged as Chan, Golub and LeVeque (1979)
// have it.
template <typename T> __device__ void batch_moments(const BatchMomentsParams &p) {
    const int N = Vector16<T>::N;
    __shared__ float means[THREADS * Vector16<T>::N];
    __shared__ float squares[THREADS * Vector16<T>::N];
    __shared__ float counts[THREADS];
    const u32 column = blockIdx.y * blockDim.x + threadIdx.x;
    const u32 at = threadIdx.y * blockDim.x + threadIdx.x;
    const bool used = column < p.tiles.vectors;
    const u32 first = blockIdx.x * p.tiles.chunk;
    const u32 end = first + p.tiles.chunk < p.tiles.rows ? first + p.tiles.chunk : p.tiles.rows;
    Moments<N> moments;
    moments.clear();
    u32 row = first + threadIdx.y;
    if (used && row < end) {
        const u32 step = blockDim.y;
        const T *y = (const T *)p.y + (u64)column * N;
        Vector16<T>::load(y + (u64)row * p.tiles.channels, moments.pivot);
        // Four loads are on their way at a time.
        for (; row + 3 * step < end; row += 4 * step) {
            float v[4][N];
#pragma unroll
            for (int i = 0; i < 4; i++) Vector16<T>::load(y + (u64)(row + i * step) * p.tiles.channels, v[i]);
#pragma unroll
            for (int i = 0; i < 4; i++) moments.add(v[i]);
        }
        for (; row < end; row += step) {
            float v[N];
            Vector16<T>::load(y + (u64)row * p.tiles.channels, v);
            moments.add(v);
        }
    }
    const float count = moments.count;
    const float inverse = count > 0.0f ? 1.0f / count : 0.0f;
    counts[at] = count;
#pragma unroll
    for (int k = 0; k < N; k++) {
        means[at * N + k] = moments.pivot[k] + moments.sum[k] * inverse;
        squares[at * N + k] = moments.square[k] - moments.sum[k] * (moments.sum[k] * inverse);
    }
    for (u32 half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) {
            const u32 other = at + half * blockDim.x;
            const float a = counts[at], b = counts[other], total = a + b;
            if (b > 0.0f) {
                const float share = b / total;
#pragma unroll
                for (int k = 0; k < N; k++) {
                    const float d = means[other * N + k] - means[at * N + k];
                    means[at * N + k] += d * share;
                    squares[at * N + k] += squares[other * N + k] + d * d * (a * share);
                }
                counts[at] = total;
            }
        }
    }
    __syncthreads();
    if (used && threadIdx.y == 0) {
        float *to = p.partials + (u64)blockIdx.x * 2 * p.tiles.channels + (u64)column * N;
#pragma unroll
        for (int k = 0; k < N; k++) {
            to[k] = means[at * N + k];
            to[p.tiles.channels + k] = squares[at * N + k];
        }
    }
}

INSTANCES(batch_moments, BatchMomentsParams)

// Partial sums are merged by blocks of (8, 32) threads: 8 channels, which are a sector of memory, each by 32 threads.
#define MERGED_CHANNELS 8
#define MERGERS (THREADS / MERGED_CHANNELS)
// Blocks on a multiprocessor at a time. There are few; without a number the compiler saves registers for more of them, and has loads
// wait for each other.
#define MERGING_BLOCKS 4

// Two sums of every channel of a block, for its first row of threads.
__device__ inline void merge_pairs(double *a, double *b) {
    const u32 at = threadIdx.y * MERGED_CHANNELS + threadIdx.x;
    for (u32 half = MERGERS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) {
            a[at] += a[at + half * MERGED_CHANNELS];
            b[at] += b[at + half * MERGED_CHANNELS];
        }
    }
}

struct BnFinalizeParams {
    const float *partials;
    const float *weight, *bias, *convolution_bias;
    float *running_mean, *running_var;
    float *scale, *shift, *mean, *inv_std;
    // Values of a channel that are zero without being stored: the border of a padded pointwise convolution.
    double zeros;
    double eps, momentum;
    // Added to the weights: 1 where there are none, whose places hold zeros.
    float unit;
    Tiles tiles;
};

// Moments of pieces, by distances d of their means from a pivot, the mean of one of them: with s the sum of n d and t that of
// (squares + n d^2), the whole has mean pivot + s / n and squares t - s^2 / n. No division waits for another one, and where all pieces
// are of one length the pivot is near enough that in f64 the difference loses nothing.
struct MergedMoments {
    double pivot, sum, square;

    __device__ inline void add(double n, double mean, double squares) {
        const double d = mean - pivot, nd = n * d;
        sum += nd;
        square += squares + nd * d;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, MERGING_BLOCKS) bn_finalize(BnFinalizeParams p) {
    __shared__ double sums[THREADS], squares[THREADS];
    const u32 channel = blockIdx.x * MERGED_CHANNELS + threadIdx.x;
    const u32 at = threadIdx.y * MERGED_CHANNELS + threadIdx.x;
    const u32 channels = p.tiles.channels, blocks = p.tiles.blocks;
    MergedMoments merged = {0.0, 0.0, 0.0};
    if (channel < channels) {
        const float *partials = p.partials + channel;
        merged.pivot = partials[0];
        const double whole = p.tiles.chunk, last = p.tiles.rows - (blocks - 1) * p.tiles.chunk;
        u32 block = threadIdx.y;
        // Eight loads are on their way at a time.
        for (; block + 3 * MERGERS < blocks; block += 4 * MERGERS) {
            float mean[4], square[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *from = partials + (u64)(block + i * MERGERS) * 2 * channels;
                mean[i] = from[0], square[i] = from[channels];
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                merged.add(block + i * MERGERS + 1 == blocks ? last : whole, mean[i], square[i]);
            }
        }
        for (; block < blocks; block += MERGERS) {
            const float *from = partials + (u64)block * 2 * channels;
            merged.add(block + 1 == blocks ? last : whole, from[0], from[channels]);
        }
    }
    sums[at] = merged.sum, squares[at] = merged.square;
    merge_pairs(sums, squares);
    if (threadIdx.y > 0 || channel >= channels) return;
    merged.sum = sums[at], merged.square = squares[at];
    merged.add(p.zeros, 0.0, 0.0);
    const double count = p.tiles.rows + p.zeros, offset = merged.sum / count;
    const double mean = merged.pivot + offset, spread = merged.square - merged.sum * offset;
    // Rounding can leave a trace below zero; a NaN stays one.
    const double variance = spread < 0.0 ? 0.0 : spread / count;
    const double inv_std = 1.0 / sqrt(variance + p.eps);
    const double scale = ((double)p.weight[channel] + (double)p.unit) * inv_std;
    p.scale[channel] = (float)scale;
    p.shift[channel] = (float)((double)p.bias[channel] - mean * scale);
    p.mean[channel] = (float)mean;
    p.inv_std[channel] = (float)inv_std;
    // What is stored lacks the convolution's bias, which BatchNorm takes out of everything but this.
    const double whole = mean + (p.convolution_bias ? (double)p.convolution_bias[channel] : 0.0);
    const double old_mean = p.running_mean[channel], old_var = p.running_var[channel];
    p.running_mean[channel] = (float)(old_mean + p.momentum * (whole - old_mean));
    p.running_var[channel] = (float)(old_var + p.momentum * (variance * (count / (count - 1.0)) - old_var));
}

struct BnEvalScaleShiftParams {
    const float *weight, *bias, *convolution_bias, *running_mean, *running_var;
    float *scale, *shift;
    const double *eps;
    const float *units;  // 1 for each channel whose BatchNorm has no weight
    u32 channels;
};

// Scale and shift of every block's BatchNorm from its running statistics.
extern "C" __global__ void __launch_bounds__(THREADS) bn_eval_scale_shift(BnEvalScaleShiftParams p) {
    const u32 channel = blockIdx.x * THREADS + threadIdx.x;
    if (channel >= p.channels) return;
    const double weight = (double)p.weight[channel] + (double)p.units[channel];
    const double scale = weight / sqrt((double)p.running_var[channel] + p.eps[channel]);
    const double off = (double)p.convolution_bias[channel] - (double)p.running_mean[channel];
    p.scale[channel] = (float)scale;
    p.shift[channel] = (float)((double)p.bias[channel] + off * scale);
}
