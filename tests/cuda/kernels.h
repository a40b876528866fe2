// The words of CUDA C++ that kernels use, for a compiler of C++. Included before each file of kernels; functions can be added as
// kernels need them.
#pragma once

#include "device.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>

// `build.py` finds these three words after the preprocessor: it makes the table of kernels from the first, and of the third a
// thread-local variable or a pointer to dynamic shared memory.
#define __global__ EMULATOR_GLOBAL
#define __launch_bounds__(...) EMULATOR_BOUNDS(__VA_ARGS__)
#define __shared__ EMULATOR_SHARED

#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) alignas(n)

#define threadIdx (emulator::current->thread)
#define blockIdx (emulator::current->block)
#define blockDim (emulator::current->block_dim)
#define gridDim (emulator::current->grid_dim)
#define warpSize 32

using dim3 = emulator::Index;
using uint3 = emulator::Index;

#define VECTORS(type, name)                                                                                                    \
    struct alignas(2 * sizeof(type)) name##2 {                                                                                 \
        type x, y;                                                                                                             \
    };                                                                                                                         \
    struct name##3 {                                                                                                           \
        type x, y, z;                                                                                                          \
    };                                                                                                                         \
    struct alignas(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16) name##4 {                                                    \
        type x, y, z, w;                                                                                                       \
    };                                                                                                                         \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                                           \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                                                \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
VECTORS(float, float)
VECTORS(double, double)
VECTORS(int, int)
VECTORS(short, short)
VECTORS(unsigned short, ushort)
VECTORS(signed char, char)
VECTORS(unsigned char, uchar)
#undef VECTORS
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// Barriers and exchanges know the line that they are at.
#define __syncthreads() ((void)emulator::barrier(__LINE__, 0))
#define __syncthreads_count(predicate) (int(emulator::barrier(__LINE__, (predicate) != 0)))
#define __syncthreads_or(predicate) (int(emulator::barrier(__LINE__, (predicate) != 0) != 0))
#define __syncthreads_and(predicate) (int(emulator::barrier(__LINE__, (predicate) == 0) == 0))
#define __syncwarp(...) ((void)emulator::exchange(emulator::Exchange::wait, emulator::mask_or_all(__VA_ARGS__), 0, 0, __LINE__))
#define __ballot_sync(mask, predicate) (unsigned(emulator::exchange(emulator::Exchange::ballot, mask, (predicate) != 0, 0, __LINE__)))
#define __any_sync(mask, predicate) (int(__ballot_sync(mask, predicate) != 0))
#define __all_sync(mask, predicate) (int(__ballot_sync(mask, !(predicate)) == 0))
#define __shfl_sync(...) (emulator::shuffle(emulator::Shuffle::index, __LINE__, __VA_ARGS__))
#define __shfl_up_sync(...) (emulator::shuffle(emulator::Shuffle::up, __LINE__, __VA_ARGS__))
#define __shfl_down_sync(...) (emulator::shuffle(emulator::Shuffle::down, __LINE__, __VA_ARGS__))
#define __shfl_xor_sync(...) (emulator::shuffle(emulator::Shuffle::exclusive_or, __LINE__, __VA_ARGS__))
#define __trap() (emulator::trap("a trap", __LINE__))

namespace emulator {

inline unsigned mask_or_all(unsigned mask = ~0u) { return mask; }

enum class Shuffle { index, up, down, exclusive_or };

inline unsigned lane() {
    const Thread &t = *current;
    return (t.thread.x + t.block_dim.x * (t.thread.y + t.block_dim.y * t.thread.z)) % 32;
}

template <class T> T shuffle(Shuffle kind, int line, unsigned mask, T value, int by, int width = 32) {
    static_assert(sizeof(T) <= 8);
    int self = lane(), first = self / width * width, source = self;
    switch (kind) {
    case Shuffle::index: source = first + (by & (width - 1)); break;
    case Shuffle::up: source = self - by >= first ? self - by : self; break;
    case Shuffle::down: source = self + by < first + width ? self + by : self; break;
    case Shuffle::exclusive_or: source = (self ^ by) < first + width ? self ^ by : self; break;
    }
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = exchange(Exchange::value, mask, bits, source, line);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <class To, class From> To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// A result that the compiler does not merge with what is done to it next.
inline float apart(float x) {
    asm("" : "+x"(x));
    return x;
}

} // namespace emulator

using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;

inline unsigned __float_as_uint(float x) { return emulator::bits_as<unsigned>(x); }
inline int __float_as_int(float x) { return emulator::bits_as<int>(x); }
inline float __uint_as_float(unsigned x) { return emulator::bits_as<float>(x); }
inline float __int_as_float(int x) { return emulator::bits_as<float>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned __int128)(a) * b >> 64; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return emulator::apart(a * b); }
inline float __fadd_rn(float a, float b) { return emulator::apart(emulator::apart(a) + emulator::apart(b)); }
inline float __fsub_rn(float a, float b) { return emulator::apart(emulator::apart(a) - emulator::apart(b)); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline int __float2int_rn(float x) { return int(nearbyintf(x)); }
inline int __float2int_rz(float x) { return int(x); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }

template <class T> T __ldg(const T *from) { return *from; }
template <class T> T __ldcs(const T *from) { return *from; }
template <class T> T __ldcg(const T *from) { return *from; }
template <class T> void __stcs(T *to, T value) { *to = value; }
template <class T> void __stcg(T *to, T value) { *to = value; }

// Blocks run one after the other, and threads change only where they wait.
inline void __threadfence() {}
inline void __threadfence_block() {}
template <class T> T atomicAdd(T *at, T by) {
    T old = *at;
    *at = old + by;
    return old;
}
template <class T> T atomicMax(T *at, T by) {
    T old = *at;
    *at = std::max(old, by);
    return old;
}
template <class T> T atomicMin(T *at, T by) {
    T old = *at;
    *at = std::min(old, by);
    return old;
}
template <class T> T atomicExch(T *at, T value) {
    T old = *at;
    *at = value;
    return old;
}
template <class T> T atomicCAS(T *at, T expected, T value) {
    T old = *at;
    if (old == expected) *at = value;
    return old;
}
inline unsigned atomicInc(unsigned *at, unsigned limit) {
    unsigned old = *at;
    *at = old >= limit ? 0 : old + 1;
    return old;
}
