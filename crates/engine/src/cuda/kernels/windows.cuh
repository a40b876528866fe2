// Windows over a map.
#pragma once

#include "common.cuh"

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

// Of equal values a pool takes the first, of several NaNs the last.
__device__ inline bool replaces(float x, float best) { return x > best || x != x; }
