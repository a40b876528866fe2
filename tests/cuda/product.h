// The matrix product behind cuBLAS and cuDNN.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#include <vector>

namespace emulator {

enum class Type { f32, bf16 };

inline size_t size_of(Type type) { return type == Type::f32 ? 4 : 2; }
inline const char *name_of(Type type) { return type == Type::f32 ? "f32" : "bf16"; }

inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline float load(Type type, const void *from, size_t index) {
    if (type == Type::f32) return static_cast<const float *>(from)[index];
    return float_of(uint32_t(static_cast<const uint16_t *>(from)[index]) << 16);
}

inline void store(Type type, void *to, size_t index, float value) {
    if (type == Type::f32) {
        static_cast<float *>(to)[index] = value;
        return;
    }
    uint32_t bits = bits_of(value);
    static_cast<uint16_t *>(to)[index] = value != value ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// To 10 bits of mantissa, to the nearest, of two equally near away from zero, as `cvt.rna.tf32.f32` does.
inline float tf32(float x) {
    uint32_t bits = bits_of(x);
    return (bits >> 23 & 0xff) == 0xff ? x : float_of((bits + 0x1000) & 0xffffe000);
}

// To f16 and back: beyond 65504 it is infinite, and from 2^-14 down it loses bits.
inline float f16(float x) { return _cvtsh_ss(_cvtss_sh(x, 0)); }

typedef float Lanes __attribute__((vector_size(32), aligned(4)));

constexpr size_t tile_rows = 6, tile_columns = 16, block_rows = 96, block_depth = 256, block_columns = 1024;

// tile_rows x tile_columns sums over `depth`; `a` has tile_rows and `b` tile_columns numbers for each step.
inline void tile(size_t depth, const float *a, const float *b, float *sums, size_t stride) {
    Lanes sum[tile_rows][2] = {};
    for (size_t p = 0; p < depth; p++, a += tile_rows, b += tile_columns) {
        Lanes left = *reinterpret_cast<const Lanes *>(b), right = *reinterpret_cast<const Lanes *>(b + 8);
#pragma GCC unroll 6
        for (size_t i = 0; i < tile_rows; i++) {
            sum[i][0] += a[i] * left;
            sum[i][1] += a[i] * right;
        }
    }
    for (size_t i = 0; i < tile_rows; i++) {
        *reinterpret_cast<Lanes *>(sums + i * stride) += sum[i][0];
        *reinterpret_cast<Lanes *>(sums + i * stride + 8) += sum[i][1];
    }
}

// sums[i * stride + j] += sum over p of a(i, p) * b(p, j), for i below m, j below n, p below k. The order of the sums depends on the
// sizes alone.
template <class A, class B> void product(size_t m, size_t n, size_t k, A a, B b, float *sums, size_t stride) {
    static thread_local std::vector<float> left(block_rows * block_depth), right(block_columns * block_depth);
    for (size_t j0 = 0; j0 < n; j0 += block_columns) {
        size_t columns = std::min(block_columns, n - j0);
        for (size_t p0 = 0; p0 < k; p0 += block_depth) {
            size_t depth = std::min(block_depth, k - p0);
            for (size_t j = 0; j < columns; j += tile_columns)
                for (size_t p = 0; p < depth; p++)
                    for (size_t c = 0; c < tile_columns; c++)
                        right[j * depth + p * tile_columns + c] = j + c < columns ? b(p0 + p, j0 + j + c) : 0.0f;
            for (size_t i0 = 0; i0 < m; i0 += block_rows) {
                size_t rows = std::min(block_rows, m - i0);
                for (size_t i = 0; i < rows; i += tile_rows)
                    for (size_t p = 0; p < depth; p++)
                        for (size_t r = 0; r < tile_rows; r++)
                            left[i * depth + p * tile_rows + r] = i + r < rows ? a(i0 + i + r, p0 + p) : 0.0f;
                for (size_t j = 0; j < columns; j += tile_columns)
                    for (size_t i = 0; i < rows; i += tile_rows) {
                        float *to = sums + (i0 + i) * stride + j0 + j;
                        size_t high = std::min(tile_rows, rows - i), wide = std::min(tile_columns, columns - j);
                        if (high == tile_rows && wide == tile_columns) {
                            tile(depth, &left[i * depth], &right[j * depth], to, stride);
                            continue;
                        }
                        float edge[tile_rows * tile_columns] = {};
                        tile(depth, &left[i * depth], &right[j * depth], edge, tile_columns);
                        for (size_t r = 0; r < high; r++)
                            for (size_t c = 0; c < wide; c++) to[r * stride + c] += edge[r * tile_columns + c];
                    }
            }
        }
    }
}

} // namespace emulator
