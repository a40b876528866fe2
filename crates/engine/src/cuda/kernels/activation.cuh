// Activations and their derivatives.
#pragma once

#include "common.cuh"

// A NaN is no smaller than anything, as in PyTorch.
__device__ inline float relu(float x) { return x <= 0.0f ? 0.0f : x; }

// Of BlockShape::activation, whose 0 is no activation and 1 is ReLU.
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
