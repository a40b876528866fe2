// Counter-based random numbers.
#pragma once

#include "common.cuh"

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
