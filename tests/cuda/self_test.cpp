// Tests of the emulator, of what it computes and of what it refuses. self_test.sh builds and runs them.

#include "product.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

#define C extern "C"
C int cuInit(unsigned);
C int cuDevicePrimaryCtxRetain(void **, int);
C int cuCtxSetCurrent(void *);
C int cuCtxSynchronize();
C int cuMemAlloc_v2(void **, size_t);
C int cuMemFree_v2(void *);
C int cuMemGetInfo_v2(size_t *, size_t *);
C int cuMemcpyHtoDAsync_v2(void *, const void *, size_t, void *);
C int cuMemcpyDtoHAsync_v2(void *, const void *, size_t, void *);
C int cuMemsetD32Async(void *, unsigned, size_t, void *);
C int cuModuleLoadData(void **, const void *);
C int cuModuleGetFunction(void **, void *, const char *);
C int cuFuncSetAttribute(void *, int, int);
C int cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
C int cuStreamCreate(void **, unsigned);
C int cuStreamDestroy_v2(void *);
C int cuStreamSynchronize(void *);
C int cuStreamWaitEvent(void *, void *, unsigned);
C int cuStreamIsCapturing(void *, int *);
C int cuStreamBeginCapture_v2(void *, int);
C int cuStreamEndCapture(void *, void **);
C int cuEventCreate(void **, unsigned);
C int cuEventRecord(void *, void *);
C int cuEventSynchronize(void *);
C int cuEventElapsedTime_v2(float *, void *, void *);
C int cuGraphInstantiateWithFlags(void **, void *, unsigned long long);
C int cuGraphLaunch(void *, void *);
C int cuGraphDestroy(void *);
C int cuGraphExecDestroy(void *);
C int cublasCreate_v2(void **);
C int cublasSetStream_v2(void *, void *);
C int cublasGemmEx(void *, int, int, int, int, int, const float *, const void *, int, int, const void *, int, int, const float *, void *, int,
                   int, int, int);
C int cudnnCreate(void **);
C int cudnnSetStream(void *, void *);
C int cudnnCreateTensorDescriptor(void **);
C int cudnnSetTensor4dDescriptor(void *, int, int, int, int, int, int);
C int cudnnCreateFilterDescriptor(void **);
C int cudnnSetFilter4dDescriptor(void *, int, int, int, int, int, int);
C int cudnnCreateConvolutionDescriptor(void **);
C int cudnnSetConvolution2dDescriptor(void *, int, int, int, int, int, int, int, int);
C int cudnnSetConvolutionMathType(void *, int);
C int cudnnSetConvolutionGroupCount(void *, int);
C int cudnnGetConvolution2dForwardOutputDim(void *, void *, void *, int *, int *, int *, int *);
C int cudnnGetConvolutionForwardWorkspaceSize(void *, void *, void *, void *, void *, int, size_t *);
C int cudnnGetConvolutionBackwardFilterAlgorithm_v7(void *, void *, void *, void *, void *, int, int *, void *);
C int cudnnConvolutionForward(void *, const void *, void *, const void *, void *, const void *, void *, int, void *, size_t, const void *,
                              void *, void *);
C int cudnnConvolutionBackwardData(void *, const void *, void *, const void *, void *, const void *, void *, int, void *, size_t, const void *,
                                   void *, void *);
C int cudnnConvolutionBackwardFilter(void *, const void *, void *, const void *, void *, const void *, void *, int, void *, size_t,
                                     const void *, void *, void *);

using emulator::load;
using emulator::Type;

namespace {

int failures;
void *stream, *module;

#define EXPECT(condition)                                                                                                      \
    do {                                                                                                                       \
        if (!(condition)) printf("self_test.cpp:%d: not so: %s\n", __LINE__, #condition), failures++;                           \
    } while (0)

// Numbers of one type, on the host and on the device.
struct Array {
    Type type;
    size_t count;
    std::vector<uint8_t> bytes;
    void *device = nullptr;

    Array(Type type, size_t count) : type(type), count(count), bytes(count * size_of(type)) { EXPECT(!cuMemAlloc_v2(&device, bytes.size())); }
    ~Array() { EXPECT(!cuMemFree_v2(device)); }
    Array(const Array &) = delete;

    void fill(unsigned seed) {
        for (size_t i = 0; i < count; i++) {
            seed = seed * 1664525 + 1013904223;
            store(type, bytes.data(), i, float(seed >> 8) / float(1 << 23) - 1.0f);
        }
        EXPECT(!cuMemcpyHtoDAsync_v2(device, bytes.data(), bytes.size(), stream));
    }
    void fetch() { EXPECT(!cuMemcpyDtoHAsync_v2(bytes.data(), device, bytes.size(), stream)); }
    float at(size_t i) const { return load(type, bytes.data(), i); }
};

void *function(const char *name) {
    void *found = nullptr;
    EXPECT(!cuModuleGetFunction(&found, module, name));
    return found;
}

template <class... A> int launch(const char *name, unsigned grid, unsigned bx, unsigned by, unsigned shared, A... arguments) {
    void *pointers[] = {&arguments...};
    return cuLaunchKernel(function(name), grid, 1, 1, bx, by, 1, shared, stream, pointers, nullptr);
}

void start() {
    void *context;
    EXPECT(!cuInit(0));
    EXPECT(!cuDevicePrimaryCtxRetain(&context, 0));
    EXPECT(!cuCtxSetCurrent(context));
    EXPECT(!cuStreamCreate(&stream, 1));
    EXPECT(!cuModuleLoadData(&module, ""));
}

// What a process of its own says on stderr; it must end by itself when `lives`, else be stopped.
std::string said(bool lives, const std::function<void()> &wrong) {
    int pipes[2];
    if (pipe(pipes)) abort();
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        dup2(pipes[1], 2);
        failures = 0;
        start();
        wrong();
        dup2(2, 1);
        fflush(stdout);
        _exit(failures ? 1 : 0);
    }
    close(pipes[1]);
    std::string text;
    char part[4096];
    for (ssize_t got; (got = read(pipes[0], part, sizeof part)) > 0;) text.append(part, got);
    close(pipes[0]);
    int status;
    waitpid(child, &status, 0);
    bool as_expected = lives ? WIFEXITED(status) && !WEXITSTATUS(status) : WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
    if (!as_expected) printf("a child ended with %#x and said: %s", status, text.c_str());
    EXPECT(as_expected);
    return text;
}

bool contains(const std::string &text, const char *part) {
    if (text.find(part) != std::string::npos) return true;
    printf("said: %s", text.c_str());
    return false;
}

struct Numbers {
    const void *from;
    void *to;
    unsigned count;
};

void kernels() {
    Array a(Type::f32, 1000), b(Type::f32, 1000), one(Type::f32, 1);
    a.fill(1);
    EXPECT(!launch("twice", 4, 256, 1, 0, Numbers{a.device, b.device, 1000}));
    b.fetch();
    for (size_t i = 0; i < 1000; i++) EXPECT(b.at(i) == 2 * a.at(i));
    for (unsigned block : {32u, 96u, 256u}) {
        EXPECT(!launch("sum", 1, block, 1, 0, a.device, one.device, 1000u));
        one.fetch();
        double sum = 0;
        for (size_t i = 0; i < 1000; i++) sum += a.at(i);
        EXPECT(std::fabs(one.at(0) - sum) < 1e-4);
    }
    EXPECT(!launch("turn", 2, 25, 5, 125 * 16, a.device));
    b.fetch();
    Array turned(Type::f32, 1000);
    std::swap(turned.device, a.device);
    turned.fetch();
    std::swap(turned.device, a.device);
    for (size_t i = 0; i < 1000; i++) {
        size_t block = i / 500, place = i % 500 / 4, part = i % 4;
        EXPECT(turned.at(i) == a.at(block * 500 + (124 - place) * 4 + part));
    }
    Array counts(Type::f32, 12);
    EXPECT(!cuMemsetD32Async(counts.device, 0, 12, stream));
    char *at = static_cast<char *>(counts.device);
    EXPECT(!launch("votes", 10, 32, 1, 0, (void *)at, (void *)(at + 8), (void *)(at + 4)));
    counts.fetch();
    EXPECT(emulator::bits_of(counts.at(0)) == 10 && emulator::bits_of(counts.at(1)) == 110);
}

void graphs() {
    Array a(Type::f32, 4), b(Type::f32, 4);
    a.fill(3);
    std::vector<uint8_t> before = b.bytes;
    EXPECT(!cuMemsetD32Async(b.device, 0, 4, stream));
    void *graph, *executable;
    int status;
    EXPECT(!cuStreamBeginCapture_v2(stream, 1));
    EXPECT(!cuStreamIsCapturing(stream, &status) && status == 1);
    {
        // The arguments are copied.
        Numbers numbers{a.device, b.device, 4};
        EXPECT(!launch("twice", 1, 32, 1, 0, numbers));
        numbers = {};
        numbers = {b.device, a.device, 4};
        EXPECT(!launch("twice", 1, 32, 1, 0, numbers));
    }
    EXPECT(!cuStreamEndCapture(stream, &graph));
    b.fetch();
    EXPECT(b.at(0) == 0);
    EXPECT(!cuGraphInstantiateWithFlags(&executable, graph, 0));
    EXPECT(!cuGraphDestroy(graph));
    float first = a.at(0);
    EXPECT(!cuGraphLaunch(executable, stream));
    EXPECT(!cuGraphLaunch(executable, stream));
    a.fetch();
    EXPECT(a.at(0) == 16 * first);
    EXPECT(!cuGraphExecDestroy(executable));
    EXPECT(cuGraphLaunch(executable, stream) == 1);

    // Another stream joins by an event, and must be waited for.
    void *other, *fork, *join;
    EXPECT(!cuStreamCreate(&other, 1) && !cuEventCreate(&fork, 2) && !cuEventCreate(&join, 2));
    for (bool joined : {true, false}) {
        EXPECT(!cuStreamBeginCapture_v2(stream, 1));
        EXPECT(!cuEventRecord(fork, stream) && !cuStreamWaitEvent(other, fork, 0));
        EXPECT(!cuMemsetD32Async(a.device, 0, 4, other));
        if (joined) EXPECT(!cuEventRecord(join, other) && !cuStreamWaitEvent(stream, join, 0));
        EXPECT(cuStreamEndCapture(stream, &graph) == (joined ? 0 : 904));
    }
    EXPECT(!cuStreamIsCapturing(other, &status) && status == 0);
    EXPECT(!cuStreamDestroy_v2(other));

    // What must not be done while a graph is recorded spoils it.
    std::function<int()> wrong[] = {
        [&] { return cuStreamSynchronize(stream); }, [&] { return cuCtxSynchronize(); },
        [&] { void *address; return cuMemAlloc_v2(&address, 16); }, [&] { return cuMemFree_v2(b.device); },
        [&] { return cuEventRecord(fork, stream) ? 0 : cuEventSynchronize(fork); }, [&] { return cuStreamSynchronize(nullptr); },
    };
    for (auto &call : wrong) {
        EXPECT(!cuStreamBeginCapture_v2(stream, 1));
        int code = call();
        EXPECT(code == 900 || code == 907);
        EXPECT(cuMemsetD32Async(a.device, 0, 4, stream) == 901);
        EXPECT(cuStreamEndCapture(stream, &graph) == 901 && !graph);
    }
    EXPECT(cuStreamEndCapture(stream, &graph) == 401);
}

void mistakes() {
    EXPECT(contains(said(false, [] { Array a(Type::f32, 64); launch("writes_at", 1, 32, 1, 0, a.device, 64); }),
                    "writes_at, block (0, 0, 0), thread (0, 0, 0) touched byte 256 of an allocation of 256 bytes"));
    EXPECT(contains(said(false, [] { Array a(Type::f32, 5); launch("writes_at", 1, 32, 1, 0, a.device, 5); cuStreamSynchronize(stream); }),
                    "cuStreamSynchronize: the byte 20 of an allocation of 20 bytes was overwritten"));
    EXPECT(contains(said(false, [] { Array a(Type::f32, 64); launch("writes_at", 1, 32, 1, 0, a.device, -1); cuCtxSynchronize(); }),
                    "before an allocation of 256 bytes were overwritten"));
    EXPECT(contains(said(false, [] {
        void *a;
        EXPECT(!cuMemAlloc_v2(&a, 64) && !cuMemFree_v2(a));
        launch("twice", 1, 32, 1, 0, Numbers{a, a, 1});
    }), "touched byte 0 of an allocation of 64 bytes that was freed"));
    EXPECT(contains(said(false, [] { float on_host = 0; launch("twice", 1, 32, 1, 0, Numbers{nullptr, &on_host, 1}); }),
                    "twice, block (0, 0, 0), thread (0, 0, 0) touched a null or misaligned address"));
    EXPECT(contains(said(true, [] {
        float on_host[4];
        void *a;
        EXPECT(!cuMemAlloc_v2(&a, 64) && !cuMemFree_v2(a));
        EXPECT(cuMemFree_v2(a) == 1);
        EXPECT(cuMemFree_v2(on_host) == 1);
        EXPECT(!cuMemAlloc_v2(&a, 64));
        EXPECT(cuMemcpyHtoDAsync_v2(a, on_host, 65, stream) == 1);
        EXPECT(cuMemcpyHtoDAsync_v2(on_host, on_host, 16, stream) == 1);
        EXPECT(launch("sum", 1, 32, 1, 0, (void *)on_host, a, 4u) == 700);
        EXPECT(launch("sum", 0, 32, 1, 0, a, a, 4u) == 1);
        EXPECT(launch("sum", 1, 512, 1, 0, a, a, 4u) == 1);
        EXPECT(launch("turn", 1, 1025, 1, 0, a) == 1);
        EXPECT(launch("turn", 1, 1, 1, 50000, a) == 1);
        EXPECT(!cuFuncSetAttribute(function("turn"), 8, 50000));
        EXPECT(!launch("turn", 1, 1, 1, 50000, a));
        EXPECT(cuModuleGetFunction(&a, module, "nowhere") == 500);
        size_t free, total;
        EXPECT(!cuMemGetInfo_v2(&free, &total) && total == size_t(16) << 30 && free == total - 256);
        EXPECT(cuMemAlloc_v2(&a, total) == 2);
    }), "an allocation of 64 bytes is freed twice"));
    EXPECT(contains(said(false, [] { Array a(Type::f32, 32); launch("half_waits", 1, 32, 1, 0, a.device); }),
                    "but 16 threads of the block have ended"));
    EXPECT(contains(said(false, [] { Array a(Type::f32, 32); launch("waits_apart", 1, 32, 1, 0, a.device); }),
                    ", others at line "));
    EXPECT(contains(said(false, [] { Array a(Type::f32, 32); launch("lane_missing", 1, 32, 1, 0, a.device); }),
                    "for lanes of its warp that never come"));
    EXPECT(contains(said(false, [] { Array a(Type::f32, 32); launch("too_much_shared", 1, 32, 1, 32 * 4, a.device); }),
                    "too_much_shared, block (0, 0, 0), thread (0, 0, 0) touched"));
    EXPECT(contains(said(false, [] { Array a(Type::f32, 32); launch("misaligned", 1, 1, 1, 0, a.device); }), "misaligned"));
    auto values = [](const char *kernel) {
        Array a(Type::f32, 64);
        launch(kernel, 1, 64, 1, 0, a.device);
        a.fetch();
        for (int i = 0; i < 64; i++) fprintf(stderr, "%g ", a.at(i));
    };
    std::string forward = said(true, [&] { values("races"); });
    setenv("POINTWISE_EMULATOR_ORDER", "reverse", 1);
    EXPECT(forward != said(true, [&] { values("races"); }));
    EXPECT(said(true, kernels).empty());
    unsetenv("POINTWISE_EMULATOR_ORDER");
    EXPECT(contains(said(true, [&] {
        Array a(Type::f32, 32);
        launch("reads_unwritten", 1, 32, 1, 0, a.device);
        a.fetch();
        EXPECT(std::isnan(a.at(7)));
        Array fresh(Type::f32, 32), small(Type::bf16, 32);
        fresh.fetch(), small.fetch();
        EXPECT(std::isnan(fresh.at(31)) && std::isnan(small.at(31)));
        EXPECT(cuMemcpyHtoDAsync_v2(a.device, &a, 1, reinterpret_cast<void *>(0x1234)) == 400);
    }), "a stream that does not exist"));
}

// The largest error of a sum of `terms` products of numbers below 1.
double tolerance(Type out, bool tf32, size_t terms, double value) {
    double error = terms * 1e-7 + 1e-6;
    if (tf32) error += 1e-3 * std::sqrt(double(terms));
    if (out == Type::bf16) error += std::fabs(value) / 256;
    return error;
}

void products() {
    void *handle;
    EXPECT(!cublasCreate_v2(&handle) && !cublasSetStream_v2(handle, stream));
    struct Case {
        int transa, transb, m, n, k, in, out, compute;
        float alpha, beta;
    } cases[] = {
        {0, 0, 1, 1, 1, 0, 0, 68, 1, 0},     {1, 0, 17, 6, 40, 0, 0, 68, 1, 0},      {0, 1, 16, 7, 257, 0, 0, 68, 0.5, 2}, {1, 1, 33, 100, 300, 0, 0, 77, 1, 0},
        {1, 0, 65, 19, 64, 14, 14, 68, 1, 0}, {0, 1, 1030, 3, 20, 14, 0, 68, 1, 1},   {0, 0, 97, 5, 9, 14, 14, 68, 1, 1},
    };
    for (const Case &c : cases) {
        int lda = (c.transa ? c.k : c.m) + 3, ldb = (c.transb ? c.n : c.k) + 1, ldc = c.m + 2;
        Type in = c.in ? Type::bf16 : Type::f32, out = c.out ? Type::bf16 : Type::f32;
        Array a(in, size_t(lda) * (c.transa ? c.m : c.k)), b(in, size_t(ldb) * (c.transb ? c.k : c.n)), to(out, size_t(ldc) * c.n), old(out, to.count);
        a.fill(1), b.fill(2), to.fill(3), old.fill(3);
        EXPECT(!cublasGemmEx(handle, c.transa, c.transb, c.m, c.n, c.k, &c.alpha, a.device, c.in, lda, b.device, c.in, ldb, &c.beta, to.device, c.out, ldc, c.compute, -1));
        to.fetch();
        double worst = 0;
        for (int j = 0; j < c.n; j++)
            for (int i = 0; i < ldc; i++) {
                size_t at = i + size_t(j) * ldc;
                double value = 0;
                for (int p = 0; i < c.m && p < c.k; p++) value += double(a.at(c.transa ? p + i * lda : i + p * lda)) * b.at(c.transb ? j + p * ldb : p + j * ldb);
                value = i < c.m ? c.alpha * value + c.beta * old.at(at) : old.at(at);
                double error = std::fabs(to.at(at) - value);
                EXPECT(error <= tolerance(out, c.compute == 77, c.k, value));
                worst = std::max(worst, error);
            }
        // TF32 must be seen.
        if (c.compute == 77) EXPECT(worst > 1e-4);
    }
    float one = 1, zero = 0;
    Array a(Type::f32, 100);
    EXPECT(cublasGemmEx(handle, 0, 0, 10, 10, 10, &one, a.device, 0, 9, a.device, 0, 10, &zero, a.device, 0, 10, 68, -1) == 7);
    EXPECT(cublasGemmEx(handle, 0, 0, 10, 10, 11, &one, a.device, 0, 10, a.device, 0, 11, &zero, a.device, 0, 10, 68, -1) == 7);
}

void convolutions() {
    void *handle, *x_shape, *y_shape, *w_shape, *v;
    EXPECT(!cudnnCreate(&handle) && !cudnnSetStream(handle, stream));
    EXPECT(!cudnnCreateTensorDescriptor(&x_shape) && !cudnnCreateTensorDescriptor(&y_shape) && !cudnnCreateFilterDescriptor(&w_shape));
    EXPECT(!cudnnCreateConvolutionDescriptor(&v));
    struct Case {
        int last, type, n, c, h, w, k, r, s, pad, stride, groups, math;
    } cases[] = {
        {1, 0, 2, 3, 8, 7, 5, 3, 3, 1, 1, 1, 3}, {0, 0, 3, 4, 9, 9, 6, 3, 3, 1, 1, 1, 3}, {1, 0, 2, 8, 20, 21, 4, 5, 3, 2, 1, 1, 0},
        {1, 9, 2, 16, 6, 6, 24, 1, 1, 1, 1, 1, 0}, {1, 9, 40, 8, 4, 4, 16, 3, 3, 1, 1, 1, 1}, {0, 0, 2, 4, 8, 8, 6, 3, 3, 0, 2, 2, 3},
    };
    float one = 1, zero = 0;
    for (const Case &c : cases) {
        int n, k, oh, ow;
        EXPECT(!cudnnSetTensor4dDescriptor(x_shape, c.last, c.type, c.n, c.c, c.h, c.w));
        EXPECT(!cudnnSetFilter4dDescriptor(w_shape, c.type, c.last, c.k, c.c / c.groups, c.r, c.s));
        EXPECT(!cudnnSetConvolution2dDescriptor(v, c.pad, c.pad, c.stride, c.stride, 1, 1, 1, 0));
        EXPECT(!cudnnSetConvolutionMathType(v, c.math) && !cudnnSetConvolutionGroupCount(v, c.groups));
        EXPECT(!cudnnGetConvolution2dForwardOutputDim(v, x_shape, w_shape, &n, &k, &oh, &ow));
        EXPECT(!cudnnSetTensor4dDescriptor(y_shape, c.last, c.type, n, k, oh, ow));
        Type type = c.type ? Type::bf16 : Type::f32;
        bool rounded = c.type == 0 && c.math != 3;
        int cg = c.c / c.groups, kg = c.k / c.groups;
        auto xi = [&](int n, int ch, int i, int j) { return c.last ? ((n * c.h + i) * c.w + j) * c.c + ch : ((n * c.c + ch) * c.h + i) * c.w + j; };
        auto yi = [&](int n, int ch, int i, int j) { return c.last ? ((n * oh + i) * ow + j) * c.k + ch : ((n * c.k + ch) * oh + i) * ow + j; };
        auto wi = [&](int f, int ch, int r, int s) { return c.last ? ((f * c.r + r) * c.s + s) * cg + ch : ((f * cg + ch) * c.r + r) * c.s + s; };
        Array x(type, size_t(c.n) * c.c * c.h * c.w), w(type, size_t(c.k) * cg * c.r * c.s), y(type, size_t(n) * k * oh * ow);
        Array dx(type, x.count), dw(type, w.count), dy(type, y.count);
        x.fill(1), w.fill(2), dy.fill(3);
        std::vector<double> to(y.count), dto(x.count), wto(w.count);
        for (int in = 0; in < n; in++)
            for (int f = 0; f < k; f++)
                for (int i = 0; i < oh; i++)
                    for (int j = 0; j < ow; j++)
                        for (int r = 0; r < c.r; r++)
                            for (int s = 0; s < c.s; s++)
                                for (int ch = 0; ch < cg; ch++) {
                                    int a = i * c.stride + r - c.pad, b = j * c.stride + s - c.pad;
                                    if (a < 0 || b < 0 || a >= c.h || b >= c.w) continue;
                                    size_t xa = xi(in, f / kg * cg + ch, a, b), wa = wi(f, ch, r, s), ya = yi(in, f, i, j);
                                    to[ya] += double(x.at(xa)) * w.at(wa);
                                    dto[xa] += double(dy.at(ya)) * w.at(wa);
                                    wto[wa] += double(dy.at(ya)) * x.at(xa);
                                }
        size_t bytes;
        EXPECT(!cudnnGetConvolutionForwardWorkspaceSize(handle, x_shape, w_shape, v, y_shape, 1, &bytes));
        Array workspace(Type::f32, (bytes + 3) / 4);
        EXPECT(cudnnConvolutionForward(handle, &one, x_shape, x.device, w_shape, w.device, v, 1, workspace.device, bytes - 1, &zero, y_shape, y.device) == 2006);
        EXPECT(!cudnnConvolutionForward(handle, &one, x_shape, x.device, w_shape, w.device, v, 1, workspace.device, bytes, &zero, y_shape, y.device));
        EXPECT(!cudnnConvolutionBackwardData(handle, &one, w_shape, w.device, y_shape, dy.device, v, 0, nullptr, 0, &zero, x_shape, dx.device));
        EXPECT(!cudnnConvolutionBackwardFilter(handle, &one, x_shape, x.device, y_shape, dy.device, v, 1, workspace.device, bytes, &zero, w_shape, dw.device));
        y.fetch(), dx.fetch(), dw.fetch();
        for (size_t i = 0; i < to.size(); i++) EXPECT(std::fabs(y.at(i) - to[i]) <= tolerance(type, rounded, cg * c.r * c.s, to[i]));
        for (size_t i = 0; i < dto.size(); i++) EXPECT(std::fabs(dx.at(i) - dto[i]) <= tolerance(type, rounded, kg * c.r * c.s, dto[i]));
        for (size_t i = 0; i < wto.size(); i++) EXPECT(std::fabs(dw.at(i) - wto[i]) <= tolerance(type, rounded, size_t(n) * oh * ow, wto[i]));
        // A gradient by an algorithm that is not deterministic differs from time to time, where more than a few numbers are added.
        std::vector<uint8_t> first[2];
        for (auto &bytes : first) {
            EXPECT(!cudnnConvolutionBackwardFilter(handle, &one, x_shape, x.device, y_shape, dy.device, v, 0, nullptr, 0, &zero, w_shape, dw.device));
            dw.fetch();
            bytes = dw.bytes;
        }
        if (type == Type::f32) EXPECT(first[0] != first[1]);
        // Into a sum.
        float half = 0.5f;
        EXPECT(!cudnnConvolutionForward(handle, &half, x_shape, x.device, w_shape, w.device, v, 0, nullptr, 0, &half, y_shape, y.device));
        y.fetch();
        for (size_t i = 0; i < to.size(); i++) EXPECT(std::fabs(y.at(i) - to[i]) <= 2 * tolerance(type, rounded, cg * c.r * c.s, to[i]));
        EXPECT(cudnnConvolutionForward(handle, &one, x_shape, static_cast<char *>(x.device) + 4, w_shape, w.device, v, 0, nullptr, 0, &zero, y_shape, y.device) == 2003);
        EXPECT(cudnnConvolutionForward(handle, &one, y_shape, x.device, w_shape, w.device, v, 0, nullptr, 0, &zero, y_shape, y.device) >= 2000);
        struct Result {
            int algorithm, status;
            float time;
            size_t memory;
            int determinism, math, reserved[3];
        } results[16];
        int count;
        EXPECT(!cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle, x_shape, y_shape, v, w_shape, 16, &count, results));
        int deterministic = 0, other = 0;
        for (int i = 0; i < count; i++) (results[i].status ? other : results[i].determinism ? deterministic : other)++;
        EXPECT(deterministic && other && results[0].status == 0);
    }
}

} // namespace

int main() {
    // Before this process has a device, for children cannot inherit one.
    mistakes();
    start();
    kernels();
    graphs();
    products();
    convolutions();
    EXPECT(!cuCtxSynchronize());
    printf(failures ? "%d failures\n" : "the emulator's own tests pass\n", failures);
    return failures != 0;
}
