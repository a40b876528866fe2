// Types, rounding, and vectors of 16 bytes.
#pragma once

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define THREADS 256

// A kernel that is an instance of a template, and the two of a template for types alone.
#define INSTANCE(kernel, Params, ...)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS) kernel(Params p) { __VA_ARGS__(p); }
#define INSTANCES(name, Params)                                                                                                \
    INSTANCE(name##_f32, Params, name<float>)                                                                                  \
    INSTANCE(name##_bf16, Params, name<bf16>)


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
template <typename T> struct Vector16;

template <> struct Vector16<float> {
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

template <> struct Vector16<bf16> {
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

// Four numbers.
template <typename T> struct Quad;

template <> struct Quad<float> {
    static __device__ inline void load(const float *from, float *v) { Vector16<float>::load(from, v); }
};

template <> struct Quad<bf16> {
    static __device__ inline void load(const bf16 *from, float *v) {
        const uint2 x = *reinterpret_cast<const uint2 *>(from);
        v[0] = bits_float(x.x << 16), v[1] = bits_float(x.x & 0xffff0000u);
        v[2] = bits_float(x.y << 16), v[3] = bits_float(x.y & 0xffff0000u);
    }
    static __device__ inline void store(bf16 *to, const float *v) {
        uint2 x;
        x.x = bf16_bits(v[0]) | bf16_bits(v[1]) << 16, x.y = bf16_bits(v[2]) | bf16_bits(v[3]) << 16;
        *reinterpret_cast<uint2 *>(to) = x;
    }
};

// As many f32 as a vector of T has numbers, 16 bytes at a time; `otherwise` where there is no array.
template <int N> __device__ inline void load_floats(const float *from, float otherwise, float *v) {
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = otherwise;
    if (!from) return;
#pragma unroll
    for (int i = 0; i < N; i += 4) Vector16<float>::load(from + i, v + i);
}
