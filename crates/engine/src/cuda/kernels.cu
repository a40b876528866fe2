// Device code of the engine `cuda`.
//
// Maps are channels-last, (images, rows, columns, channels), with the channels padded by zeros to whole vectors of 16 bytes: 4 f32
// or 8 bf16. No pass ever makes a padded channel anything else. Every kernel takes one structure by value, which
// `launch.rs` repeats field for field. Sums run in an order that the shapes alone decide: no atomic operation anywhere.
//
// The file compiles with nvcc, and with a C++ compiler that defines CUDA's words, on which the tests without a GPU run it.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define THREADS 256

// ---------------------------------------------------------------------------------------------------------------- numbers

struct bf16 {
    u16 bits;
};

__device__ inline u32 float_bits(float x) {
    union {
        float x;
        u32 bits;
    } both;
    both.x = x;
    return both.bits;
}

__device__ inline float bits_float(u32 bits) {
    union {
        u32 bits;
        float x;
    } both;
    both.bits = bits;
    return both.x;
}

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(bf16 x) { return bits_float((u32)x.bits << 16); }

// To the nearest, of two equally near to the even one; a NaN stays one.
__device__ inline u32 bf16_bits(float x) {
#ifdef __CUDA_ARCH__
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#else
    u32 bits = float_bits(x);
    if (x != x) return 0x7fff;
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
#endif
}

__device__ inline void narrow(float x, float *to) { *to = x; }
__device__ inline void narrow(float x, bf16 *to) { to->bits = (u16)bf16_bits(x); }

// A vector of 16 bytes.
template <typename T> struct Lanes;

template <> struct Lanes<float> {
    static const int N = 4;
    static __device__ inline void load(const float *from, float *v) {
        const float4 x = *reinterpret_cast<const float4 *>(from);
        v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
    }
    static __device__ inline void store(float *to, const float *v) {
        float4 x;
        x.x = v[0], x.y = v[1], x.z = v[2], x.w = v[3];
        *reinterpret_cast<float4 *>(to) = x;
    }
};

template <> struct Lanes<bf16> {
    static const int N = 8;
    static __device__ inline void load(const bf16 *from, float *v) {
        const uint4 x = *reinterpret_cast<const uint4 *>(from);
        const u32 words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[2 * i] = bits_float(words[i] << 16);
            v[2 * i + 1] = bits_float(words[i] & 0xffff0000u);
        }
    }
    static __device__ inline void store(bf16 *to, const float *v) {
        u32 words[4];
#pragma unroll
        for (int i = 0; i < 4; i++) words[i] = bf16_bits(v[2 * i]) | bf16_bits(v[2 * i + 1]) << 16;
        uint4 x;
        x.x = words[0], x.y = words[1], x.z = words[2], x.w = words[3];
        *reinterpret_cast<uint4 *>(to) = x;
    }
};

// As many f32 as a vector of T has numbers; `otherwise` where there is no array.
template <int N> __device__ inline void load_floats(const float *from, float otherwise, float *v) {
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = from ? from[i] : otherwise;
}

// ---------------------------------------------------------------------------------------------------------- random numbers

// Philox 4x32-10, as in the crate `pointwise-random`.
__device__ inline void philox(u64 seed, u32 purpose, u32 stream, u64 index, u32 *words) {
    u32 c0 = (u32)index, c1 = (u32)(index >> 32), c2 = stream, c3 = purpose;
    u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u64 p0 = (u64)0xD2511F53u * c0, p1 = (u64)0xCD9E8D57u * c2;
        const u32 n0 = (u32)(p1 >> 32) ^ c1 ^ k0, n2 = (u32)(p0 >> 32) ^ c3 ^ k1;
        c1 = (u32)p1, c3 = (u32)p0, c0 = n0, c2 = n2;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

#define AUGMENT 3
#define DROPOUT 4

__device__ inline u32 below(u32 word, u32 bound) { return (u32)(((u64)word * bound) >> 32); }

// ------------------------------------------------------------------------------------------------------------ what goes on

// What changes from step to step, and what is asked for at the end: read and advanced on the device.
struct Control {
    // Sums over batches.
    double loss_sum;
    u64 correct;
    u64 samples;
    double last_loss;
    // Of the newest training step, before clipping; NaN without one.
    double gradient_norm;
    // Training steps taken.
    u64 step;
    // What the coming steps are taken with: the learning rate, and SGD's momentum or the first beta of Adam and AdamW.
    double lr, momentum;
    // The first value that was not finite, what it was of (0: there was none), and its step.
    double bad_value;
    u64 bad_step;
    u32 bad;
    // Place of the next batch's first image in the order.
    u32 offset;
    u32 epoch;
    // What the gradients of the step in hand are multiplied by.
    float clip;
    // Whether the step in hand is the first: the moving average begins with it.
    u32 first;
};

// Of Control::bad.
#define BAD_LOSS 1
#define BAD_GRADIENT_NORM 2

// A NaN and an infinity are the numbers whose difference from themselves is no zero.
__device__ inline bool is_finite(double x) { return x - x == 0.0; }

__device__ inline void stop_at(Control *control, u32 what, double value, u64 step) {
    if (control->bad) return;
    control->bad = what;
    control->bad_value = value;
    control->bad_step = step;
}

struct SetRateParams {
    Control *control;
    double lr, momentum;
};

// Arguments of a kernel are copied when it is started, so that the host need not wait until they are read.
extern "C" __global__ void __launch_bounds__(256) set_rate(SetRateParams p) {
    if (blockIdx.x * THREADS + threadIdx.x > 0) return;
    p.control->lr = p.lr;
    p.control->momentum = p.momentum;
}

// --------------------------------------------------------------------------------------------------------------- a batch

struct AssembleParams {
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

template <typename T> __device__ void assemble(const AssembleParams &p) {
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
    for (u32 c = 0; c < p.padded; c++) {
        float value = 0.0f;
        if (c < p.channels) {
            const u32 byte = inside ? image[(u64)c * pixels + (u32)y * p.width + (u32)x] : 0;
            value = p.values[c * 256 + byte];
        }
        narrow(value, out + c);
    }
}

extern "C" __global__ void __launch_bounds__(256) assemble_f32(AssembleParams p) { assemble<float>(p); }
extern "C" __global__ void __launch_bounds__(256) assemble_bf16(AssembleParams p) { assemble<bf16>(p); }

struct ImportParams {
    const float *images;  // (n, channels, pixels)
    void *out;            // (n, pixels, padded)
    u32 n, channels, pixels, padded;
};

template <typename T> __device__ void import_map(const ImportParams &p) {
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n * p.pixels) return;
    const u32 i = at / p.pixels, pixel = at % p.pixels;
    T *out = (T *)p.out + (u64)at * p.padded;
    for (u32 c = 0; c < p.padded; c++) {
        const float value = c < p.channels ? p.images[((u64)i * p.channels + c) * p.pixels + pixel] : 0.0f;
        narrow(value, out + c);
    }
}

extern "C" __global__ void __launch_bounds__(256) import_f32(ImportParams p) { import_map<float>(p); }
extern "C" __global__ void __launch_bounds__(256) import_bf16(ImportParams p) { import_map<bf16>(p); }

// ----------------------------------------------------------------------------------------------- BatchNorm's statistics

// How a matrix of rows and vectors of channels is shared out: a block of (columns, 256 / columns) threads sums `chunk` rows of
// `columns` vectors.
struct Tiles {
    u32 rows, chunk, blocks;
    u32 vectors, channels;
};

struct MomentsParams {
    const void *y;    // (rows, channels)
    float *partials;  // (blocks, 2, channels): mean and sum of squared distances from it
    Tiles tiles;
};

// The distances are from a value of the thread's own, its first; means and sums are merged as Chan, Golub and LeVeque (1979) have it.
template <typename T> __device__ void moments(const MomentsParams &p) {
    const int N = Lanes<T>::N;
    __shared__ float means[THREADS * Lanes<T>::N];
    __shared__ float squares[THREADS * Lanes<T>::N];
    __shared__ float counts[THREADS];
    const u32 column = blockIdx.y * blockDim.x + threadIdx.x;
    const u32 at = threadIdx.y * blockDim.x + threadIdx.x;
    const bool used = column < p.tiles.vectors;
    const u32 first = blockIdx.x * p.tiles.chunk;
    const u32 end = first + p.tiles.chunk < p.tiles.rows ? first + p.tiles.chunk : p.tiles.rows;
    float pivot[N], sum[N], square[N];
#pragma unroll
    for (int k = 0; k < N; k++) pivot[k] = 0.0f, sum[k] = 0.0f, square[k] = 0.0f;
    float count = 0.0f;
    if (used) {
        const T *y = (const T *)p.y + (u64)column * N;
        for (u32 row = first + threadIdx.y; row < end; row += blockDim.y) {
            float v[N];
            Lanes<T>::load(y + (u64)row * p.tiles.channels, v);
            if (count == 0.0f) {
#pragma unroll
                for (int k = 0; k < N; k++) pivot[k] = v[k];
            }
            count += 1.0f;
#pragma unroll
            for (int k = 0; k < N; k++) {
                const float d = v[k] - pivot[k];
                sum[k] += d;
                square[k] = fmaf(d, d, square[k]);
            }
        }
    }
    const float inverse = count > 0.0f ? 1.0f / count : 0.0f;
    counts[at] = count;
#pragma unroll
    for (int k = 0; k < N; k++) {
        means[at * N + k] = pivot[k] + sum[k] * inverse;
        squares[at * N + k] = square[k] - sum[k] * (sum[k] * inverse);
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

extern "C" __global__ void __launch_bounds__(256) moments_f32(MomentsParams p) { moments<float>(p); }
extern "C" __global__ void __launch_bounds__(256) moments_bf16(MomentsParams p) { moments<bf16>(p); }

// Blocks of (32, 8) threads: 32 channels, each by eight threads.
#define MERGERS 8

struct NormaliseParams {
    const float *partials;
    const float *weight, *bias, *convolution_bias;
    float *running_mean, *running_var;
    float *scale, *shift, *center, *root;
    // Values of a channel that are zero without being stored: the border of a padded pointwise convolution.
    double zeros;
    double eps, momentum;
    // Added to the weights: 1 where there are none, whose places hold zeros.
    float unit;
    Tiles tiles;
};

extern "C" __global__ void __launch_bounds__(256) normalise(NormaliseParams p) {
    __shared__ double counts[THREADS], means[THREADS], squares[THREADS];
    const u32 channel = blockIdx.x * 32 + threadIdx.x;
    const u32 at = threadIdx.y * 32 + threadIdx.x;
    const u32 channels = p.tiles.channels;
    double count = 0.0, mean = 0.0, square = 0.0;
    if (channel < channels) {
        for (u32 block = threadIdx.y; block < p.tiles.blocks; block += MERGERS) {
            const u32 left = p.tiles.rows - block * p.tiles.chunk;
            const double n = left < p.tiles.chunk ? left : p.tiles.chunk;
            const float *from = p.partials + (u64)block * 2 * channels + channel;
            const double total = count + n, share = n / total;
            const double d = (double)from[0] - mean;
            square += (double)from[channels] + d * d * (count * share);
            mean += d * share;
            count = total;
        }
    }
    counts[at] = count, means[at] = mean, squares[at] = square;
    __syncthreads();
    if (threadIdx.y > 0 || channel >= channels) return;
    for (u32 other = threadIdx.x + 32; other < THREADS; other += 32) {
        const double n = counts[other];
        if (n == 0.0) continue;
        const double total = count + n, share = n / total;
        const double d = means[other] - mean;
        square += squares[other] + d * d * (count * share);
        mean += d * share;
        count = total;
    }
    if (p.zeros > 0.0) {
        const double total = count + p.zeros, share = p.zeros / total;
        square += mean * mean * (count * share);
        mean -= mean * share;
        count = total;
    }
    // Rounding can leave a trace below zero; a NaN stays one.
    const double variance = square < 0.0 ? 0.0 : square / count;
    const double root = 1.0 / sqrt(variance + p.eps);
    const double scale = ((double)p.weight[channel] + (double)p.unit) * root;
    p.scale[channel] = (float)scale;
    p.shift[channel] = (float)((double)p.bias[channel] - mean * scale);
    p.center[channel] = (float)mean;
    p.root[channel] = (float)root;
    // What is stored lacks the convolution's bias, which BatchNorm takes out of everything but this.
    const double whole = mean + (p.convolution_bias ? (double)p.convolution_bias[channel] : 0.0);
    const double old_mean = p.running_mean[channel], old_var = p.running_var[channel];
    p.running_mean[channel] = (float)(old_mean + p.momentum * (whole - old_mean));
    p.running_var[channel] = (float)(old_var + p.momentum * (variance * (count / (count - 1.0)) - old_var));
}

struct EvaluationParams {
    const float *weight, *bias, *convolution_bias, *running_mean, *running_var;
    float *scale, *shift;
    const double *eps;
    const float *units;  // 1 for each channel whose BatchNorm has no weight
    u32 channels;
};

// Scale and shift of every block's BatchNorm from its running statistics.
extern "C" __global__ void __launch_bounds__(256) evaluation(EvaluationParams p) {
    const u32 channel = blockIdx.x * THREADS + threadIdx.x;
    if (channel >= p.channels) return;
    const double weight = (double)p.weight[channel] + (double)p.units[channel];
    const double scale = weight / sqrt((double)p.running_var[channel] + p.eps[channel]);
    const double off = (double)p.convolution_bias[channel] - (double)p.running_mean[channel];
    p.scale[channel] = (float)scale;
    p.shift[channel] = (float)((double)p.bias[channel] + off * scale);
}

// ------------------------------------------------------------------------------------------------------------ activations

// A NaN is no smaller than anything, as in PyTorch.
__device__ inline float relu(float x) { return x <= 0.0f ? 0.0f : x; }

// Of Shape::activation, whose 0 is no activation and 1 is ReLU.
#define RELU 1
#define RELU6 2
#define LEAKY_RELU 3
#define GELU 4
#define GELU_TANH 5
#define SILU 6
#define SIGMOID 7
#define TANH 8

// 1 / (1 + exp(-x)), and its derivative.
__device__ inline float logistic(float x, float *slope) {
    const float e = expf(-fabsf(x)), whole = 1.0f / (1.0f + e), part = e * whole;
    *slope = part * whole;
    return x < 0.0f ? part : whole;
}

// sqrt(8 / pi), and the factor of the cube in GELU's approximation.
#define GELU_LINEAR 1.5957691216057308f
#define GELU_CUBIC 0.07135481282642225f

// Those other than ReLU.
__device__ inline float activated(u32 kind, float slope, float x) {
    float unused;
    switch (kind) {
    case RELU6: return relu(x) > 6.0f ? 6.0f : relu(x);
    case LEAKY_RELU: return x > 0.0f ? x : x * slope;
    case GELU: return x * (0.5f * erfcf(x * -0.70710678f));
    case GELU_TANH: return x * logistic(x * fmaf(GELU_CUBIC, x * x, GELU_LINEAR), &unused);
    case SILU: return x * logistic(x, &unused);
    case SIGMOID: return logistic(x, &unused);
    case TANH: return tanhf(x);
    }
    return x;
}

// The gradient before one of them, from that behind it; gradients at kinks are PyTorch's.
__device__ inline float unactivated(u32 kind, float slope, float x, float gradient) {
    float steep;
    switch (kind) {
    case RELU6: return x <= 0.0f || x >= 6.0f ? 0.0f : gradient;
    case LEAKY_RELU: return x > 0.0f ? gradient : gradient * slope;
    case GELU: return gradient * fmaf(x, 0.39894228f * expf(-0.5f * x * x), 0.5f * erfcf(x * -0.70710678f));
    case GELU_TANH: {
        // Beyond, the derivative is 0 or 1 in f32, and its parts would overflow.
        const float inner = x > 16.0f ? 16.0f : x < -16.0f ? -16.0f : x, square = inner * inner;
        const float value = logistic(inner * fmaf(GELU_CUBIC, square, GELU_LINEAR), &steep);
        return gradient * fmaf(steep, inner * fmaf(3.0f * GELU_CUBIC, square, GELU_LINEAR), value);
    }
    case SILU: {
        const float value = logistic(x, &steep);
        return gradient * fmaf(x, steep, value);
    }
    case SIGMOID: return logistic(x, &steep), gradient * steep;
    case TANH: {
        const float value = tanhf(x);
        return gradient * (1.0f - value * value);
    }
    }
    return gradient;
}

// ------------------------------------------------------------------------------------ BatchNorm or bias, activation, pool

// The convolution's results are a map of h x w inside a border of zeros; together height x width.
struct Shape {
    u32 n, h, w, border;
    u32 height, width, out_height, out_width;
    u32 channels;
    u32 activation, pool;
    u32 real;     // channels without padding
    float slope;  // LeakyReLU's
};

// The kernels below are compiled twice: OTHER is for activations other than ReLU, behind which there is no pool.

// The results at a pixel of the map with its border; false in the border, where they are zero.
template <typename T>
__device__ inline bool results(const Shape &s, const T *y, u32 image, u32 row, u32 column, u32 channel, float *v) {
    const u32 r = row - s.border, c = column - s.border;
    // Left of the border the difference wraps around.
    if (r < s.h && c < s.w) {
        Lanes<T>::load(y + (((u64)image * s.h + r) * s.w + c) * s.channels + channel, v);
        return true;
    }
#pragma unroll
    for (int k = 0; k < Lanes<T>::N; k++) v[k] = 0.0f;
    return false;
}

// Of equal values a pool takes the first, of several NaNs the last.
__device__ inline bool replaces(float x, float best) { return x > best || x != x; }

struct ApplyParams {
    const void *y;
    void *out;
    const float *scale, *shift;  // null: 1, 0
    Shape shape;
};

template <typename T, bool OTHER> __device__ void apply(const ApplyParams &p) {
    const int N = Lanes<T>::N;
    const Shape &s = p.shape;
    const u32 vectors = s.channels / N;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= s.n * s.out_height * s.out_width * vectors) return;
    const u32 channel = at % vectors * N, pixel = at / vectors;
    const u32 column = pixel % s.out_width, row = pixel / s.out_width % s.out_height;
    const u32 image = pixel / (s.out_width * s.out_height);
    const T *y = (const T *)p.y;
    float scale[N], shift[N], best[N];
    load_floats<N>(p.scale ? p.scale + channel : 0, 1.0f, scale);
    load_floats<N>(p.shift ? p.shift + channel : 0, 0.0f, shift);
    const u32 side = !OTHER && s.pool ? 2 : 1;
    for (u32 r = 0; r < side; r++) {
        for (u32 c = 0; c < side; c++) {
            float v[N];
            results<T>(s, y, image, row * side + r, column * side + c, channel, v);
#pragma unroll
            for (int k = 0; k < N; k++) {
                const float z = fmaf(scale[k], v[k], shift[k]);
                if (r + c == 0 || replaces(z, best[k])) best[k] = z;
            }
        }
    }
    if (OTHER) {
        // What makes something of zero must not do so of padded channels.
#pragma unroll
        for (int k = 0; k < N; k++) best[k] = channel + k < s.real ? activated(s.activation, s.slope, best[k]) : 0.0f;
    } else if (s.activation) {
#pragma unroll
        for (int k = 0; k < N; k++) best[k] = relu(best[k]);
    }
    Lanes<T>::store((T *)p.out + (u64)pixel * s.channels + channel, best);
}

extern "C" __global__ void __launch_bounds__(256) apply_f32(ApplyParams p) { apply<float, false>(p); }
extern "C" __global__ void __launch_bounds__(256) apply_bf16(ApplyParams p) { apply<bf16, false>(p); }
extern "C" __global__ void __launch_bounds__(256) apply_other_f32(ApplyParams p) { apply<float, true>(p); }
extern "C" __global__ void __launch_bounds__(256) apply_other_bf16(ApplyParams p) { apply<bf16, true>(p); }

// Which of a window's results its output came from (the first of equals, or the last NaN), and what the activation makes of its gradient.
template <typename T, bool OTHER> struct Window {
    float y[4][Lanes<T>::N];
    bool inner[4];
    int taken[Lanes<T>::N];
    float best[Lanes<T>::N];

    __device__ inline void read(const Shape &s, const T *results_, u32 image, u32 row, u32 column, u32 channel,
                                const float *scale, const float *shift) {
        const u32 side = !OTHER && s.pool ? 2 : 1;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i > 0 && (OTHER || !s.pool)) break;
            inner[i] = results<T>(s, results_, image, row * side + i / 2, column * side + i % 2, channel, y[i]);
#pragma unroll
            for (int k = 0; k < Lanes<T>::N; k++) {
                const float z = fmaf(scale[k], y[i][k], shift[k]);
                if (i == 0 || replaces(z, best[k])) best[k] = z, taken[k] = i;
            }
        }
    }

    __device__ inline float before(const Shape &s, int k, float gradient) const {
        if (OTHER) return unactivated(s.activation, s.slope, best[k], gradient);
        return s.activation && best[k] <= 0.0f ? 0.0f : gradient;
    }
};

struct ReduceParams {
    const void *y, *gradient;
    const float *scale, *shift, *center;
    float *partials;  // (blocks, 2, channels): the sums of dz and of dz * (y - center)
    Tiles tiles;      // rows: pixels of the output
    Shape shape;
};

template <typename T, bool OTHER> __device__ void reduce(const ReduceParams &p) {
    const int N = Lanes<T>::N;
    __shared__ float sums[THREADS * Lanes<T>::N];
    __shared__ float products[THREADS * Lanes<T>::N];
    const Shape &s = p.shape;
    const u32 tile = blockIdx.y * blockDim.x + threadIdx.x;
    const u32 at = threadIdx.y * blockDim.x + threadIdx.x;
    const bool used = tile < p.tiles.vectors;
    const u32 first = blockIdx.x * p.tiles.chunk;
    const u32 end = first + p.tiles.chunk < p.tiles.rows ? first + p.tiles.chunk : p.tiles.rows;
    float sum[N], product[N];
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] = 0.0f, product[k] = 0.0f;
    if (used) {
        const u32 channel = tile * N;
        float scale[N], shift[N], center[N];
        load_floats<N>(p.scale ? p.scale + channel : 0, 1.0f, scale);
        load_floats<N>(p.shift ? p.shift + channel : 0, 0.0f, shift);
        load_floats<N>(p.center ? p.center + channel : 0, 0.0f, center);
        for (u32 pixel = first + threadIdx.y; pixel < end; pixel += blockDim.y) {
            const u32 column = pixel % s.out_width, row = pixel / s.out_width % s.out_height;
            const u32 image = pixel / (s.out_width * s.out_height);
            float gradient[N];
            Lanes<T>::load((const T *)p.gradient + (u64)pixel * s.channels + channel, gradient);
            Window<T, OTHER> window;
            window.read(s, (const T *)p.y, image, row, column, channel, scale, shift);
#pragma unroll
            for (int k = 0; k < N; k++) {
                float y = window.y[0][k];
#pragma unroll
                for (int i = 1; i < 4; i++) {
                    if (!OTHER && s.pool && window.taken[k] == i) y = window.y[i][k];
                }
                const float dz = window.before(s, k, gradient[k]);
                sum[k] += dz;
                product[k] = fmaf(dz, y - center[k], product[k]);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < N; k++) sums[at * N + k] = sum[k], products[at * N + k] = product[k];
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

extern "C" __global__ void __launch_bounds__(256) reduce_f32(ReduceParams p) { reduce<float, false>(p); }
extern "C" __global__ void __launch_bounds__(256) reduce_bf16(ReduceParams p) { reduce<bf16, false>(p); }
extern "C" __global__ void __launch_bounds__(256) reduce_other_f32(ReduceParams p) { reduce<float, true>(p); }
extern "C" __global__ void __launch_bounds__(256) reduce_other_bf16(ReduceParams p) { reduce<bf16, true>(p); }

struct CoefficientsParams {
    const float *partials;
    const float *weight, *root;                // null: no BatchNorm
    float *a, *b, *c;                          // dy = a * dz + b * (y - center) + c
    float *weight_gradient, *bias_gradient;    // BatchNorm's; without it, null and the convolution's bias; null for what is not there
    double count;                              // values of a channel
    float unit;                                // as in NormaliseParams
    Tiles tiles;
};

// With s and q the sums of dz and of dz * (y - mean): dy = weight * root * (dz - s / n - (y - mean) * root^2 * q / n).
extern "C" __global__ void __launch_bounds__(256) coefficients(CoefficientsParams p) {
    __shared__ double sums[THREADS], products[THREADS];
    const u32 channel = blockIdx.x * 32 + threadIdx.x;
    const u32 at = threadIdx.y * 32 + threadIdx.x;
    const u32 channels = p.tiles.channels;
    double s = 0.0, q = 0.0;
    if (channel < channels) {
        for (u32 block = threadIdx.y; block < p.tiles.blocks; block += MERGERS) {
            const float *from = p.partials + (u64)block * 2 * channels + channel;
            s += (double)from[0];
            q += (double)from[channels];
        }
    }
    sums[at] = s, products[at] = q;
    __syncthreads();
    if (threadIdx.y > 0 || channel >= channels) return;
    for (u32 other = threadIdx.x + 32; other < THREADS; other += 32) s += sums[other], q += products[other];
    if (p.bias_gradient) p.bias_gradient[channel] = (float)s;
    if (!p.root) return;
    const double root = p.root[channel];
    const double scale = ((double)p.weight[channel] + (double)p.unit) * root;
    p.a[channel] = (float)scale;
    p.b[channel] = (float)(-scale * root * root * q / p.count);
    p.c[channel] = (float)(-scale * s / p.count);
    if (p.weight_gradient) p.weight_gradient[channel] = (float)(q * root);
}

struct GradientParams {
    const void *y, *gradient;
    void *out;  // of the results, (n, h, w, channels)
    const float *scale, *shift, *center;
    const float *a, *b, *c;  // null: 1, 0, 0
    Shape shape;
};

template <typename T, bool OTHER> __device__ void gradient(const GradientParams &p) {
    const int N = Lanes<T>::N;
    const Shape &s = p.shape;
    const u32 side = !OTHER && s.pool ? 2 : 1;
    // A last odd row or column has windows of its own, whose outputs were dropped.
    const u32 rows = (s.height + side - 1) / side, columns = (s.width + side - 1) / side;
    const u32 vectors = s.channels / N;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= s.n * rows * columns * vectors) return;
    const u32 channel = at % vectors * N, place = at / vectors;
    const u32 column = place % columns, row = place / columns % rows, image = place / (columns * rows);
    float scale[N], shift[N], center[N], a[N], b[N], c[N], gradient[N];
    load_floats<N>(p.scale ? p.scale + channel : 0, 1.0f, scale);
    load_floats<N>(p.shift ? p.shift + channel : 0, 0.0f, shift);
    load_floats<N>(p.center ? p.center + channel : 0, 0.0f, center);
    load_floats<N>(p.a ? p.a + channel : 0, 1.0f, a);
    load_floats<N>(p.b ? p.b + channel : 0, 0.0f, b);
    load_floats<N>(p.c ? p.c + channel : 0, 0.0f, c);
    const bool whole = row < s.out_height && column < s.out_width;
    if (whole) {
        const u64 pixel = ((u64)image * s.out_height + row) * s.out_width + column;
        Lanes<T>::load((const T *)p.gradient + pixel * s.channels + channel, gradient);
    } else {
#pragma unroll
        for (int k = 0; k < N; k++) gradient[k] = 0.0f;
    }
    Window<T, OTHER> window;
    window.read(s, (const T *)p.y, image, row, column, channel, scale, shift);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (i > 0 && (OTHER || !s.pool)) break;
        if (!window.inner[i]) continue;
        float dy[N];
#pragma unroll
        for (int k = 0; k < N; k++) {
            const float dz = window.taken[k] == i ? window.before(s, k, gradient[k]) : 0.0f;
            dy[k] = fmaf(a[k], dz, fmaf(b[k], window.y[i][k] - center[k], c[k]));
        }
        const u32 r = row * side + i / 2 - s.border, k = column * side + i % 2 - s.border;
        Lanes<T>::store((T *)p.out + (((u64)image * s.h + r) * s.w + k) * s.channels + channel, dy);
    }
}

extern "C" __global__ void __launch_bounds__(256) gradient_f32(GradientParams p) { gradient<float, false>(p); }
extern "C" __global__ void __launch_bounds__(256) gradient_bf16(GradientParams p) { gradient<bf16, false>(p); }
extern "C" __global__ void __launch_bounds__(256) gradient_other_f32(GradientParams p) { gradient<float, true>(p); }
extern "C" __global__ void __launch_bounds__(256) gradient_other_bf16(GradientParams p) { gradient<bf16, true>(p); }

// -------------------------------------------------------------------------------------------- averages, flattening, dropout

struct MapParams {
    const void *from;
    void *to;
    u32 n, pixels;
    u32 channels, padded;  // without and with padding
    u32 vector;            // length of a flattened image, padded
};

template <typename T> __device__ void average(const MapParams &p) {
    const int N = Lanes<T>::N;
    const u32 vectors = p.padded / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n * vectors) return;
    const T *from = (const T *)p.from + (u64)(at / vectors) * p.pixels * p.padded + at % vectors * N;
    float sum[N];
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] = 0.0f;
    for (u32 pixel = 0; pixel < p.pixels; pixel++) {
        float v[N];
        Lanes<T>::load(from + (u64)pixel * p.padded, v);
#pragma unroll
        for (int k = 0; k < N; k++) sum[k] += v[k];
    }
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] /= (float)p.pixels;
    Lanes<T>::store((T *)p.to + (u64)at * N, sum);
}

extern "C" __global__ void __launch_bounds__(256) average_f32(MapParams p) { average<float>(p); }
extern "C" __global__ void __launch_bounds__(256) average_bf16(MapParams p) { average<bf16>(p); }

// The adjoint: from vectors to maps.
template <typename T> __device__ void spread(const MapParams &p) {
    const int N = Lanes<T>::N;
    const u32 vectors = p.padded / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n * p.pixels * vectors) return;
    const u32 image = at / (vectors * p.pixels);
    float v[N];
    Lanes<T>::load((const T *)p.from + (u64)image * p.padded + at % vectors * N, v);
#pragma unroll
    for (int k = 0; k < N; k++) v[k] /= (float)p.pixels;
    Lanes<T>::store((T *)p.to + (u64)at * N, v);
}

extern "C" __global__ void __launch_bounds__(256) spread_f32(MapParams p) { spread<float>(p); }
extern "C" __global__ void __launch_bounds__(256) spread_bf16(MapParams p) { spread<bf16>(p); }

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

extern "C" __global__ void __launch_bounds__(256) flatten_f32(MapParams p) { flatten<float>(p); }
extern "C" __global__ void __launch_bounds__(256) flatten_bf16(MapParams p) { flatten<bf16>(p); }

template <typename T> __device__ void unflatten(const MapParams &p) {
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n * p.pixels * p.padded) return;
    const u32 channel = at % p.padded, pixel = at / p.padded % p.pixels, image = at / (p.padded * p.pixels);
    float value = 0.0f;
    if (channel < p.channels) value = widen(((const T *)p.from)[(u64)image * p.vector + channel * p.pixels + pixel]);
    narrow(value, (T *)p.to + at);
}

extern "C" __global__ void __launch_bounds__(256) unflatten_f32(MapParams p) { unflatten<float>(p); }
extern "C" __global__ void __launch_bounds__(256) unflatten_bf16(MapParams p) { unflatten<bf16>(p); }

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
    const int N = Lanes<T>::N;
    const u32 vectors = p.padded / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n * p.pixels * vectors) return;
    const u32 first = at % vectors * N, pixel = at / vectors % p.pixels, image = at / (vectors * p.pixels);
    float v[N];
    Lanes<T>::load((const T *)p.from + (u64)at * N, v);
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
    Lanes<T>::store((T *)p.to + (u64)at * N, v);
}

extern "C" __global__ void __launch_bounds__(256) dropout_f32(DropoutParams p) { dropout<float>(p); }
extern "C" __global__ void __launch_bounds__(256) dropout_bf16(DropoutParams p) { dropout<bf16>(p); }

// ---------------------------------------------------------------------------------------------------- sums, products, copies

struct ElementsParams {
    const void *a, *b;
    void *out;
    float factor;
    u32 vectors;
    u32 relu;
};

// The sum of two maps, or of one where `b` is null, with ReLU where it is asked for. `out` may be one of them.
template <typename T> __device__ void sum(const ElementsParams &p) {
    const int N = Lanes<T>::N;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.vectors) return;
    float a[N], b[N];
    Lanes<T>::load((const T *)p.a + (u64)at * N, a);
    if (p.b) {
        Lanes<T>::load((const T *)p.b + (u64)at * N, b);
#pragma unroll
        for (int k = 0; k < N; k++) a[k] += b[k];
    }
    if (p.relu) {
#pragma unroll
        for (int k = 0; k < N; k++) a[k] = relu(a[k]);
    }
    Lanes<T>::store((T *)p.out + (u64)at * N, a);
}

extern "C" __global__ void __launch_bounds__(256) sum_f32(ElementsParams p) { sum<float>(p); }
extern "C" __global__ void __launch_bounds__(256) sum_bf16(ElementsParams p) { sum<bf16>(p); }

// The gradient `a` where ReLU's output `b` is not zero.
template <typename T> __device__ void mask(const ElementsParams &p) {
    const int N = Lanes<T>::N;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.vectors) return;
    float a[N], b[N];
    Lanes<T>::load((const T *)p.a + (u64)at * N, a);
    Lanes<T>::load((const T *)p.b + (u64)at * N, b);
#pragma unroll
    for (int k = 0; k < N; k++) a[k] = b[k] <= 0.0f ? 0.0f : a[k];
    Lanes<T>::store((T *)p.out + (u64)at * N, a);
}

extern "C" __global__ void __launch_bounds__(256) mask_f32(ElementsParams p) { mask<float>(p); }
extern "C" __global__ void __launch_bounds__(256) mask_bf16(ElementsParams p) { mask<bf16>(p); }

template <typename T> __device__ void scale(const ElementsParams &p) {
    const int N = Lanes<T>::N;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.vectors) return;
    float a[N];
    Lanes<T>::load((const T *)p.a + (u64)at * N, a);
#pragma unroll
    for (int k = 0; k < N; k++) a[k] *= p.factor;
    Lanes<T>::store((T *)p.out + (u64)at * N, a);
}

extern "C" __global__ void __launch_bounds__(256) scale_f32(ElementsParams p) { scale<float>(p); }
extern "C" __global__ void __launch_bounds__(256) scale_bf16(ElementsParams p) { scale<bf16>(p); }

struct MultiplyParams {
    const void *a, *b;
    void *out;
    u32 n, pixels, padded;
    // Which factor has one pixel, that stands for every pixel.
    u32 a_is_gate, b_is_gate;
};

template <typename T> __device__ inline void factor(const void *from, u32 gate, const MultiplyParams &p, u32 image, u32 place, float *v) {
    const u64 start = (u64)image * (gate ? p.padded : p.pixels * p.padded);
    Lanes<T>::load((const T *)from + start + (gate ? place % p.padded : place), v);
}

// The product of two maps; `out` may be the first.
template <typename T> __device__ void multiply(const MultiplyParams &p) {
    const int N = Lanes<T>::N;
    const u32 vectors = p.pixels * p.padded / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n * vectors) return;
    const u32 image = at / vectors, place = at % vectors * N;
    float a[N], b[N];
    factor<T>(p.a, p.a_is_gate, p, image, place, a);
    factor<T>(p.b, p.b_is_gate, p, image, place, b);
#pragma unroll
    for (int k = 0; k < N; k++) a[k] *= b[k];
    Lanes<T>::store((T *)p.out + (u64)at * N, a);
}

extern "C" __global__ void __launch_bounds__(256) multiply_f32(MultiplyParams p) { multiply<float>(p); }
extern "C" __global__ void __launch_bounds__(256) multiply_bf16(MultiplyParams p) { multiply<bf16>(p); }

// The gradient of a factor of one pixel: the sum over all pixels of the gradient `a` times the other factors `b`.
template <typename T> __device__ void gate(const MultiplyParams &p) {
    const int N = Lanes<T>::N;
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
    Lanes<T>::store((T *)p.out + (u64)at * N, sum);
}

extern "C" __global__ void __launch_bounds__(256) gate_f32(MultiplyParams p) { gate<float>(p); }
extern "C" __global__ void __launch_bounds__(256) gate_bf16(MultiplyParams p) { gate<bf16>(p); }

struct ChannelsParams {
    const void *from;
    void *to;
    u32 pixels;                  // of all images
    u32 from_padded, from_first; // channels of a pixel there, and the first that is copied
    u32 to_padded, to_first;
    u32 before, channels, span;  // `before` zeros, `channels` copies, and zeros up to `span` channels
};

// Copies a run of channels with zeros around it. A thread has as many channels as a vector, one by one where runs begin within vectors.
template <typename T> __device__ void channels(const ChannelsParams &p) {
    const int N = Lanes<T>::N;
    const u32 groups = (p.span + N - 1) / N, at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.pixels * groups) return;
    const u32 pixel = at / groups, place = at % groups * N;
    const T *from = (const T *)p.from + (u64)pixel * p.from_padded + p.from_first;
    T *to = (T *)p.to + (u64)pixel * p.to_padded + p.to_first;
    if (!((p.from_first | p.to_first | p.before | p.channels | p.span) % N)) {
        float v[N];
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = 0.0f;
        if (place - p.before < p.channels) Lanes<T>::load(from + (place - p.before), v);
        Lanes<T>::store(to + place, v);
        return;
    }
    for (u32 c = place; c < place + N && c < p.span; c++) {
        // In front of the run the difference wraps around.
        const float value = c - p.before < p.channels ? widen(from[c - p.before]) : 0.0f;
        narrow(value, to + c);
    }
}

extern "C" __global__ void __launch_bounds__(256) channels_f32(ChannelsParams p) { channels<float>(p); }
extern "C" __global__ void __launch_bounds__(256) channels_bf16(ChannelsParams p) { channels<bf16>(p); }

// ------------------------------------------------------------------------------------------------------------------ pools

// Windows over a map, rows first.
struct Windows {
    u32 n, height, width, out_height, out_width;
    u32 kernel[2], stride[2], padding[2];
};

struct Range {
    u32 first, end;
};

// The places of one side that window `at` covers; at least one.
__device__ inline Range covered(u32 at, u32 kernel, u32 stride, u32 padding, u32 side) {
    const u32 start = at * stride, end = start + kernel - padding;
    Range range;
    range.first = start > padding ? start - padding : 0;
    range.end = end < side ? end : side;
    return range;
}

// The windows of one side that cover place `at`; there may be none.
__device__ inline Range covering(u32 at, u32 kernel, u32 stride, u32 padding, u32 windows) {
    const u32 place = at + padding, end = place / stride + 1;
    Range range;
    range.first = place >= kernel ? (place - kernel) / stride + 1 : 0;
    range.end = end < windows ? end : windows;
    return range;
}

struct PoolParams {
    const void *x, *gradient;
    void *out;
    Windows windows;
    u32 padded;
    u32 include_padding;  // an average's divisor is the whole window
};

template <typename T> __device__ void max_pool(const PoolParams &p) {
    const int N = Lanes<T>::N;
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
            Lanes<T>::load((const T *)p.x + (((u64)image * w.height + r) * w.width + c) * p.padded + channel, v);
#pragma unroll
            for (int k = 0; k < N; k++) {
                if (!begun || replaces(v[k], best[k])) best[k] = v[k];
            }
            begun = true;
        }
    }
    Lanes<T>::store((T *)p.out + (u64)at * N, best);
}

extern "C" __global__ void __launch_bounds__(256) max_pool_f32(PoolParams p) { max_pool<float>(p); }
extern "C" __global__ void __launch_bounds__(256) max_pool_bf16(PoolParams p) { max_pool<bf16>(p); }

// A thread has a vector of the input, and finds again which of the windows over it took it.
template <typename T> __device__ void max_pool_back(const PoolParams &p) {
    const int N = Lanes<T>::N;
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
                    Lanes<T>::load((const T *)p.x + (((u64)image * w.height + r) * w.width + c) * p.padded + channel, v);
#pragma unroll
                    for (int k = 0; k < N; k++) {
                        if (!begun || replaces(v[k], best[k])) best[k] = v[k], taken[k] = r * w.width + c;
                    }
                    begun = true;
                }
            }
            float gradient[N];
            const u64 pixel = ((u64)image * w.out_height + row) * w.out_width + column;
            Lanes<T>::load((const T *)p.gradient + pixel * p.padded + channel, gradient);
#pragma unroll
            for (int k = 0; k < N; k++) {
                if (taken[k] == own) sum[k] += gradient[k];
            }
        }
    }
    Lanes<T>::store((T *)p.out + (u64)at * N, sum);
}

extern "C" __global__ void __launch_bounds__(256) max_pool_back_f32(PoolParams p) { max_pool_back<float>(p); }
extern "C" __global__ void __launch_bounds__(256) max_pool_back_bf16(PoolParams p) { max_pool_back<bf16>(p); }

__device__ inline float divisor(const PoolParams &p, Range rows, Range columns) {
    const Windows &w = p.windows;
    return (float)(p.include_padding ? w.kernel[0] * w.kernel[1] : (rows.end - rows.first) * (columns.end - columns.first));
}

template <typename T> __device__ void average_pool(const PoolParams &p) {
    const int N = Lanes<T>::N;
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
            Lanes<T>::load((const T *)p.x + (((u64)image * w.height + r) * w.width + c) * p.padded + channel, v);
#pragma unroll
            for (int k = 0; k < N; k++) sum[k] += v[k];
        }
    }
    const float by = divisor(p, rows, columns);
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] /= by;
    Lanes<T>::store((T *)p.out + (u64)at * N, sum);
}

extern "C" __global__ void __launch_bounds__(256) average_pool_f32(PoolParams p) { average_pool<float>(p); }
extern "C" __global__ void __launch_bounds__(256) average_pool_bf16(PoolParams p) { average_pool<bf16>(p); }

template <typename T> __device__ void average_pool_back(const PoolParams &p) {
    const int N = Lanes<T>::N;
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
            Lanes<T>::load((const T *)p.gradient + pixel * p.padded + channel, gradient);
#pragma unroll
            for (int k = 0; k < N; k++) sum[k] += gradient[k] / by;
        }
    }
    Lanes<T>::store((T *)p.out + (u64)at * N, sum);
}

extern "C" __global__ void __launch_bounds__(256) average_pool_back_f32(PoolParams p) { average_pool_back<float>(p); }
extern "C" __global__ void __launch_bounds__(256) average_pool_back_bf16(PoolParams p) { average_pool_back<bf16>(p); }

// ------------------------------------------------------------------------------------------------------- grouped convolutions

struct GroupedParams {
    const void *x, *w, *y;  // the input, the weights and the gradient of the results, where they are read
    void *out;
    Windows windows;
    u32 in_padded, out_padded;
    // Input and output channels of a group, and outputs that have weights: (outputs, rows, columns, in_group). Where a group is one
    // channel on either side (`depthwise`), the weights are (rows, columns, out_padded).
    u32 in_group, out_group, outputs;
    u32 depthwise;
};

template <typename T> __device__ void grouped(const GroupedParams &p) {
    const int N = Lanes<T>::N;
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
                Lanes<T>::load(from + channel, v);
                Lanes<T>::load((const T *)p.w + (u64)tap * p.out_padded + channel, weight);
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
    Lanes<T>::store((T *)p.out + (u64)at * N, sum);
}

extern "C" __global__ void __launch_bounds__(256) grouped_f32(GroupedParams p) { grouped<float>(p); }
extern "C" __global__ void __launch_bounds__(256) grouped_bf16(GroupedParams p) { grouped<bf16>(p); }

// The gradient of the input: a thread has a vector of it, and gathers from the results that were made of it.
template <typename T> __device__ void grouped_data(const GroupedParams &p) {
    const int N = Lanes<T>::N;
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
                Lanes<T>::load(from + channel, v);
                Lanes<T>::load((const T *)p.w + (u64)tap * p.out_padded + channel, weight);
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
    Lanes<T>::store((T *)p.out + (u64)at * N, sum);
}

extern "C" __global__ void __launch_bounds__(256) grouped_data_f32(GroupedParams p) { grouped_data<float>(p); }
extern "C" __global__ void __launch_bounds__(256) grouped_data_bf16(GroupedParams p) { grouped_data<bf16>(p); }

struct GroupedFilterParams {
    GroupedParams convolution;  // `x` and `y` are read, `out` is not used
    float *partials;            // (chunks, weights)
    u32 weights, chunk;
};

// Partial sums of the gradient of the weights: blocks of (32, 8) threads have 32 weights, each by eight threads, over `chunk` pixels.
template <typename T> __device__ void grouped_filter(const GroupedFilterParams &p) {
    __shared__ float sums[THREADS];
    const GroupedParams &g = p.convolution;
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
        for (u32 pixel = first + threadIdx.y; pixel < end; pixel += MERGERS) {
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

extern "C" __global__ void __launch_bounds__(256) grouped_filter_f32(GroupedFilterParams p) { grouped_filter<float>(p); }
extern "C" __global__ void __launch_bounds__(256) grouped_filter_bf16(GroupedFilterParams p) { grouped_filter<bf16>(p); }

struct MergeParams {
    const float *partials;
    void *out;
    u32 weights, chunks;
};

template <typename T> __device__ void merge(const MergeParams &p) {
    const u32 weight = blockIdx.x * THREADS + threadIdx.x;
    if (weight >= p.weights) return;
    float sum = 0.0f;
    for (u32 chunk = 0; chunk < p.chunks; chunk++) sum += p.partials[(u64)chunk * p.weights + weight];
    narrow(sum, (T *)p.out + weight);
}

extern "C" __global__ void __launch_bounds__(256) merge_f32(MergeParams p) { merge<float>(p); }
extern "C" __global__ void __launch_bounds__(256) merge_bf16(MergeParams p) { merge<bf16>(p); }

// ------------------------------------------------------------------------------------------------------------- optimizers

// An optimizer is a structure of two functions: the constants of a step for a group of parameters, and the step. Its operations and
// their order are PyTorch's (torch/optim, the _single_tensor functions).

// A group of parameters.
struct Group {
    double lr_factor, weight_decay;
};

// Of a step for a group; what they mean is the optimizer's.
struct alignas(16) StepConstants {
    float rate, decay, momentum, inverse_root;
};

// What stays from step to step.
struct OptimizerParams {
    double second_beta;
    float second_decay, second_rate, eps;
    u32 nesterov;
};

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

// ------------------------------------------------------------------------------------------------------------------- Adam

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

// ------------------------------------------------------------------------------------------------------------------ AdamW

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

// -------------------------------------------------------------------------------------------------------------------- SGD

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

// ------------------------------------------------------------------------------------------------------------------- loss

// Of an image.
struct RowLoss {
    double loss;
    u32 correct;
};

struct LossRowsParams {
    const void *logits;  // (n, padded)
    const u16 *labels;   // (n)
    void *gradient;      // (n, padded); null in evaluation
    RowLoss *rows;       // (n)
    double smoothing;    // share of each label that goes to all classes alike
    u32 n, classes, padded;
};

// A block of (across, 256 / across) threads: `across` of them, a power of two, have a row. In f64, as on the CPU.
template <typename T> __device__ void loss_rows(const LossRowsParams &p) {
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

extern "C" __global__ void __launch_bounds__(256) loss_rows_f32(LossRowsParams p) { loss_rows<float>(p); }
extern "C" __global__ void __launch_bounds__(256) loss_rows_bf16(LossRowsParams p) { loss_rows<bf16>(p); }

struct LossTotalParams {
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
extern "C" __global__ void __launch_bounds__(256) loss_total(LossTotalParams p) {
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
            case 0: p.constants[i] = Adam::constants(p.optimizer, p.groups[i], lr, momentum, step); break;
            case 1: p.constants[i] = AdamW::constants(p.optimizer, p.groups[i], lr, momentum, step); break;
            case 2: p.constants[i] = Sgd::constants(p.optimizer, p.groups[i], lr, momentum, step); break;
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

// --------------------------------------------------------------------------------------------------------------- clipping

template <typename T> struct Quad;
template <> struct Quad<float> {
    static __device__ inline void load(const float *from, float *v) { Lanes<float>::load(from, v); }
};
template <> struct Quad<bf16> {
    static __device__ inline void load(const bf16 *from, float *v) {
        for (int k = 0; k < 4; k++) v[k] = widen(from[k]);
    }
};

// Four gradients: those of the weights have the type of the products.
template <typename T>
__device__ inline void load_gradients(const void *weight_gradients, const float *vector_gradients, u32 weights, u32 at, float *v) {
    if (at < weights) {
        Quad<T>::load((const T *)weight_gradients + at, v);
    } else {
        Lanes<float>::load(vector_gradients + (at - weights), v);
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

extern "C" __global__ void __launch_bounds__(256) gradient_squares_f32(GradientNormParams p) { gradient_squares<float>(p); }
extern "C" __global__ void __launch_bounds__(256) gradient_squares_bf16(GradientNormParams p) { gradient_squares<bf16>(p); }

// One block: the norm, and what brings it down to `most` (torch.nn.utils.clip_grad_norm_).
extern "C" __global__ void __launch_bounds__(256) clip_gradients(GradientNormParams p) {
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

// ----------------------------------------------------------------------------------------------------------------- update

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
    float average_share;                     // as in `averaged`
    u32 from_average;
    u32 weights, length, statistics_length;  // multiples of 8
    u32 n;                                   // images in the batch
};

// The way of torch.lerp: from the nearer end. The first step's values are what the average begins with.
__device__ inline void averaged(const UpdateParams &p, u32 is_first, float *average, const float *v) {
    float old[4];
    Lanes<float>::load(average, old);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const float start = p.from_average ? old[k] : v[k], end = p.from_average ? v[k] : old[k];
        old[k] = is_first ? v[k] : start + p.average_share * (end - start);
    }
    Lanes<float>::store(average, old);
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
        Lanes<float>::load(p.values + at, value);
        Lanes<float>::load(p.first + at, first);
        if (Optimizer::SECOND) Lanes<float>::load(p.second + at, second);
        load_gradients<T>(p.weight_gradients, p.vector_gradients, p.weights, at, gradient);
#pragma unroll
        for (int k = 0; k < 4; k++) Optimizer::step(p.optimizer, c, gradient[k] * clip, value[k], first[k], second[k]);
        Lanes<float>::store(p.values + at, value);
        Lanes<float>::store(p.first + at, first);
        if (Optimizer::SECOND) Lanes<float>::store(p.second + at, second);
        if (p.copies && at < p.weights) {
            for (int k = 0; k < 4; k++) narrow(value[k], p.copies + at + k);
        }
        if (p.average) averaged(p, control->first, p.average + at, value);
    } else if (p.average && at - p.length < p.statistics_length) {
        float v[4];
        Lanes<float>::load(p.statistics + (at - p.length), v);
        averaged(p, control->first, p.average_statistics + (at - p.length), v);
    }
    // No other thread reads these two.
    if (at == 0) {
        control->step += 1;
        control->offset += p.n;
    }
}

extern "C" __global__ void __launch_bounds__(256) adam_f32(UpdateParams p) { update<float, Adam>(p); }
extern "C" __global__ void __launch_bounds__(256) adam_bf16(UpdateParams p) { update<bf16, Adam>(p); }
extern "C" __global__ void __launch_bounds__(256) adamw_f32(UpdateParams p) { update<float, AdamW>(p); }
extern "C" __global__ void __launch_bounds__(256) adamw_bf16(UpdateParams p) { update<bf16, AdamW>(p); }
extern "C" __global__ void __launch_bounds__(256) sgd_f32(UpdateParams p) { update<float, Sgd>(p); }
extern "C" __global__ void __launch_bounds__(256) sgd_bf16(UpdateParams p) { update<bf16, Sgd>(p); }

struct SwapParams {
    float *values, *average;
    float *statistics, *average_statistics;
    bf16 *copies;  // renewed; null where there are none
    u32 weights, length, statistics_length;
};

// Averages change places with what was trained: recorded steps know one address of each.
extern "C" __global__ void __launch_bounds__(256) swap_average(SwapParams p) {
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

// ------------------------------------------------------------------------------------------------------------------ checks

struct SizesParams {
    u32 *sizes;
};

// What the device's compiler makes of the structures, for a test to compare with the host's.
extern "C" __global__ void __launch_bounds__(256) sizes(SizesParams p) {
    if (blockIdx.x * THREADS + threadIdx.x > 0) return;
    const u32 all[] = {sizeof(Control),           sizeof(SetRateParams),     sizeof(AssembleParams),     sizeof(ImportParams),
                       sizeof(MomentsParams),     sizeof(NormaliseParams),   sizeof(EvaluationParams),   sizeof(ApplyParams),
                       sizeof(ReduceParams),      sizeof(CoefficientsParams), sizeof(GradientParams),    sizeof(MapParams),
                       sizeof(DropoutParams),     sizeof(LossRowsParams),    sizeof(LossTotalParams),    sizeof(RowLoss),
                       sizeof(Group),             sizeof(StepConstants),         sizeof(GradientNormParams), sizeof(UpdateParams),
                       sizeof(ElementsParams),    sizeof(MultiplyParams),    sizeof(ChannelsParams),     sizeof(PoolParams),
                       sizeof(GroupedParams),     sizeof(GroupedFilterParams), sizeof(MergeParams),        sizeof(SwapParams)};
    for (u32 i = 0; i < sizeof(all) / sizeof(all[0]); i++) p.sizes[i] = all[i];
}
