// Kernels that the emulator is tested with: right ones, and each kind of wrong one.

struct Numbers {
    const float *from;
    float *to;
    unsigned count;
};

extern "C" __global__ void twice(Numbers n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n.count) n.to[i] = 2.0f * n.from[i];
}

// One block sums; within warps by shuffles, then through static shared memory.
extern "C" __global__ void __launch_bounds__(256) sum(const float *__restrict__ from, float *__restrict__ to, unsigned count) {
    __shared__ float of_warps[8];
    float sum = 0.0f;
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x) sum += __ldg(from + i);
    for (int by = 16; by > 0; by /= 2) sum += __shfl_down_sync(0xffffffffu, sum, by);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? of_warps[threadIdx.x] : 0.0f;
        for (int by = 4; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
        if (threadIdx.x == 0) *to = sum;
    }
}

// Each block turns its part around in dynamic shared memory, of two dimensions of threads.
extern "C" __global__ void turn(float4 *values) {
    extern __shared__ float4 part[];
    unsigned n = blockDim.x * blockDim.y, i = threadIdx.y * blockDim.x + threadIdx.x;
    part[i] = values[blockIdx.x * n + i];
    __syncthreads();
    values[blockIdx.x * n + i] = part[n - 1 - i];
}

// The last of the blocks to come sums what all of them left.
extern "C" __global__ void votes(unsigned *count, unsigned *ballots, unsigned *total) {
    unsigned ballot = __ballot_sync(0xffffffffu, threadIdx.x % 3 == 0);
    int any = __syncthreads_or(threadIdx.x == 5);
    if (threadIdx.x == 0) {
        ballots[blockIdx.x] = any ? ballot : 0;
        __threadfence();
        if (atomicAdd(count, 1u) == gridDim.x - 1) {
            *total = 0;
            for (unsigned i = 0; i < gridDim.x; i++) *total += __popc(ballots[i]);
        }
    }
}

extern "C" __global__ void writes_at(float *values, int place) {
    if (threadIdx.x == 0) values[place] = 1.0f;
}

extern "C" __global__ void half_waits(float *values) {
    if (threadIdx.x < 16) __syncthreads();
    values[threadIdx.x] = 0.0f;
}

extern "C" __global__ void waits_apart(float *values) {
    if (threadIdx.x < 16) {
        __syncthreads();
    } else {
        values[threadIdx.x] = 0.0f;
        __syncthreads();
    }
}

extern "C" __global__ void lane_missing(float *values) {
    float value = 1.0f;
    if (threadIdx.x < 31) value = __shfl_down_sync(0xffffffffu, value, 1);
    __syncthreads();
    values[threadIdx.x] = value;
}

// A barrier is missing.
extern "C" __global__ void races(float *values) {
    __shared__ float next[64];
    next[threadIdx.x] = (float)threadIdx.x;
    values[threadIdx.x] = next[63 - threadIdx.x];
    __syncthreads();
}

extern "C" __global__ void reads_unwritten(float *values) {
    __shared__ float never[32];
    values[threadIdx.x] = never[threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 40) never[0] = 0.0f;
}

extern "C" __global__ void too_much_shared(float *values) {
    extern __shared__ float part[];
    part[threadIdx.x + 32] = values[threadIdx.x];
    __syncthreads();
    values[threadIdx.x] = part[threadIdx.x];
}

extern "C" __global__ void misaligned(float *values) {
    float4 *at = reinterpret_cast<float4 *>(values + 1);
    at->x = 1.0f, at->w = 2.0f;
}
