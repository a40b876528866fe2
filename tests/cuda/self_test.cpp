// Tests of the emulator, of what it computes and of what it refuses. self_test.sh builds and runs them.

#include "product.h"

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <sys/wait.h>
#include <unistd.h>

#define C extern "C"
C int cuInit(unsigned);
C int cuDeviceGetAttribute(int *, int, int);
C int cuDevicePrimaryCtxRetain(void **, int);
C int cuDevicePrimaryCtxRelease_v2(int);
C int cuCtxSetCurrent(void *);
C int cuCtxSynchronize();
C int cuMemAlloc_v2(void **, size_t);
C int cuMemFree_v2(void *);
C int cuMemGetInfo_v2(size_t *, size_t *);
C int cuMemcpyHtoDAsync_v2(void *, const void *, size_t, void *);
C int cuMemcpyDtoHAsync_v2(void *, const void *, size_t, void *);
C int cuMemsetD32Async(void *, unsigned, size_t, void *);
C int cuModuleLoadData(void **, const void *);
C int cuModuleUnload(void *);
C int cuModuleGetFunction(void **, void *, const char *);
C int cuFuncGetAttribute(int *, int, void *);
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
C int cublasDestroy_v2(void *);
C int cublasSetStream_v2(void *, void *);
C int cublasSetMathMode(void *, unsigned);
C int cublasGemmEx(void *, int, int, int, int, int, const float *, const void *, int, int, const void *, int, int, const float *, void *, int,
                   int, int, int);
C int cudnnCreate(void **);
C int cudnnDestroy(void *);
C void cudnnGetLastErrorString(char *, size_t);
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
C int cudnnGetConvolutionForwardAlgorithm_v7(void *, void *, void *, void *, void *, int, int *, void *);
C int cudnnGetConvolutionBackwardDataAlgorithm_v7(void *, void *, void *, void *, void *, int, int *, void *);
C int cudnnFindConvolutionForwardAlgorithmEx(void *, void *, const void *, void *, const void *, void *, void *, void *, int, int *, void *,
                                             void *, size_t);
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

// An entry of a fatbin.
struct Entry {
    uint16_t kind; // 1 is PTX, 2 machine code.
    uint32_t architecture;
};

template <class T> void put(std::vector<uint64_t> &words, size_t at, T value) { memcpy(reinterpret_cast<char *>(words.data()) + at, &value, sizeof value); }

// A fatbin of empty programs, in words so that it is aligned.
std::vector<uint64_t> fatbin(const std::vector<Entry> &entries) {
    constexpr size_t header = 16, entry_header = 64, code = 128;
    std::vector<uint64_t> words((header + entries.size() * (entry_header + code)) / 8);
    put(words, 0, 0xba55ed50u), put(words, 4, uint16_t(1)), put(words, 6, uint16_t(header)), put(words, 8, words.size() * 8 - header);
    for (size_t i = 0; i < entries.size(); i++) {
        size_t at = header + i * (entry_header + code), elf = at + entry_header;
        put(words, at, entries[i].kind), put(words, at + 2, uint16_t(0x101)), put(words, at + 4, uint32_t(entry_header));
        put(words, at + 8, uint64_t(code)), put(words, at + 28, entries[i].architecture);
        // A header, and the header of one section.
        if (entries[i].kind == 2) put(words, elf, 0x00010102464c457full), put(words, elf + 40, uint64_t(64)), put(words, elf + 58, uint16_t(64)), put(words, elf + 60, uint16_t(1));
    }
    return words;
}

const std::vector<Entry> as_shipped = {{2, 80}, {2, 90}, {1, 90}};

void start(bool loads = true) {
    void *context;
    EXPECT(!cuInit(0));
    EXPECT(!cuDevicePrimaryCtxRetain(&context, 0));
    EXPECT(!cuCtxSetCurrent(context));
    EXPECT(!cuStreamCreate(&stream, 1));
    if (loads) EXPECT(!cuModuleLoadData(&module, fatbin(as_shipped).data()));
}

// What a process of its own says on stderr; it must end by itself when `lives`, else be stopped.
std::string said(bool lives, const std::function<void()> &wrong, bool loads = true) {
    int pipes[2];
    if (pipe(pipes)) abort();
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        dup2(pipes[1], 2);
        failures = 0;
        start(loads);
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

void images() {
    struct Case {
        const char *architecture; // Of the card.
        std::vector<Entry> entries;
        int code;
        int runs; // The PTX or machine code that is taken.
        const char *says;
    } cases[] = {
        {"90", as_shipped, 0, 90, ""},
        {"80", as_shipped, 0, 80, ""},
        {"86", as_shipped, 0, 80, ""},
        {"100", as_shipped, 0, 90, ""},
        {"75", as_shipped, 209, 0, "holds sm_80, sm_90, compute_90, and the card is of compute capability 7.5"},
        {"90", {{2, 80}}, 209, 0, "holds sm_80, and the card"},
        {"90", {{1, 80}}, 0, 80, ""},
        {"90", {{1, 100}, {2, 100}}, 209, 0, "holds compute_100, sm_100"},
        {"90", {}, 209, 0, "holds nothing"},
    };
    for (const Case &c : cases) {
        setenv("POINTWISE_EMULATOR_ARCH", c.architecture, 1);
        std::string text = said(true, [&] {
            int major, minor, of_code = 0;
            EXPECT(!cuDeviceGetAttribute(&major, 75, 0) && !cuDeviceGetAttribute(&minor, 76, 0) && 10 * major + minor == atoi(c.architecture));
            EXPECT(cuModuleLoadData(&module, fatbin(c.entries).data()) == c.code);
            if (!c.code) EXPECT(!cuFuncGetAttribute(&of_code, 5, function("twice")) && of_code == c.runs);
        }, atoi(c.architecture) >= 80);
        EXPECT(contains(text, c.says));
    }
    setenv("POINTWISE_EMULATOR_ARCH", "ninety", 1);
    EXPECT(contains(said(false, [] { cuModuleLoadData(&module, fatbin(as_shipped).data()); }), "not a compute capability such as 90"));
    unsetenv("POINTWISE_EMULATOR_ARCH");

    struct Broken {
        const char *says;
        std::function<void(std::vector<uint64_t> &)> change;
    } broken[] = {
        {"neither a fatbin nor PTX", [](auto &words) { put(words, 0, uint8_t(0)); }},
        {"the header of the fatbin is broken", [](auto &words) { put(words, 3, uint8_t(0)); }},
        {"the header of the fatbin is broken", [](auto &words) { put(words, 6, uint16_t(24)); }},
        {"ends within the header of entry 2", [](auto &words) { put(words, 8, uint64_t(2 * 192 + 20)); }},
        {"entry 2 of the fatbin, of 128 bytes, is broken or cut off", [](auto &words) { put(words, 8, uint64_t(3 * 192 - 8)); }},
        {"entry 0 of the fatbin, of 1152921504606846976 bytes, is broken", [](auto &words) { put(words, 16 + 8, uint64_t(1) << 60); }},
        {"machine code for sm_80 in the fatbin is broken or cut off", [](auto &words) { put(words, 16 + 64, uint8_t(0)); }},
        {"machine code for sm_90 in the fatbin is broken or cut off", [](auto &words) { put(words, 16 + 192 + 64 + 60, uint16_t(2)); }},
    };
    for (const Broken &b : broken)
        EXPECT(contains(said(true, [&] {
            auto words = fatbin(as_shipped);
            b.change(words);
            EXPECT(cuModuleLoadData(&module, words.data()) == 200);
        }), b.says));
    EXPECT(contains(said(true, [] {
        auto words = fatbin(as_shipped);
        words.push_back(0);
        char *at = reinterpret_cast<char *>(words.data());
        memmove(at + 4, at, 8 * (words.size() - 1));
        EXPECT(cuModuleLoadData(&module, at + 4) == 200);
        EXPECT(!cuModuleLoadData(&module, ".version 8.0\n.target sm_80\n"));
        EXPECT(cuModuleLoadData(&module, ".version 8.0\n.target sm_100a\n") == 218);
        EXPECT(cuModuleLoadData(&module, "") == 200);
        // Functions go with their module.
        void *twice = function("twice");
        EXPECT(!cuModuleUnload(module) && cuModuleUnload(module) == 400 && cuModuleGetFunction(&twice, module, "twice") == 400);
        EXPECT(cuLaunchKernel(twice, 1, 1, 1, 1, 1, 1, 0, stream, nullptr, nullptr) == 400);
    }), "misaligned, at an address that is not a multiple of 8"));
}

// In a thread of its own, with the context.
void elsewhere(const std::function<void()> &work) {
    std::thread([&] {
        void *context;
        EXPECT(!cuDevicePrimaryCtxRetain(&context, 0) && !cuCtxSetCurrent(context));
        work();
        EXPECT(!cuDevicePrimaryCtxRelease_v2(0));
    }).join();
}

// What another thread does while a graph is recorded.
void captures_and_threads() {
    void *address, *spare, *other, *blocking, *blas, *dnn, *graph;
    Array a(Type::f32, 4);
    EXPECT(!cuStreamCreate(&other, 1) && !cuStreamCreate(&blocking, 0));
    struct Case {
        const char *name;
        std::function<int()> call;
        bool spoils[3]; // Graphs that are recorded in the modes global, thread-local and relaxed.
        int code;
    } cases[] = {
        {"context", [&] { return cuCtxSynchronize(); }, {true, true, true}, 900},
        {"free", [&] { return cuMemFree_v2(spare); }, {true, true, true}, 900},
        {"cuBLAS", [&] { return cublasDestroy_v2(blas); }, {true, true, true}, 14},
        {"cuDNN", [&] { return cudnnDestroy(dnn); }, {true, true, true}, 4000},
        {"allocation", [&] { return cuMemAlloc_v2(&address, 16); }, {true, false, false}, 900},
        {"the stream's own", [&] { return cuStreamSynchronize(stream); }, {true, true, true}, 900},
        {"another stream", [&] { return cuMemsetD32Async(a.device, 0, 4, other) + cuStreamSynchronize(other); }, {false, false, false}, 0},
        {"the legacy stream", [&] { return cuMemsetD32Async(a.device, 0, 4, nullptr); }, {false, false, false}, 0},
    };
    for (const Case &c : cases)
        for (int mode = 0; mode < 3; mode++) {
            EXPECT(!cuMemAlloc_v2(&spare, 16) && !cublasCreate_v2(&blas) && !cudnnCreate(&dnn));
            EXPECT(!cuStreamBeginCapture_v2(stream, mode));
            EXPECT(!cuMemsetD32Async(a.device, 0, 4, stream));
            elsewhere([&] {
                int code = c.call();
                if (code != (c.spoils[mode] ? c.code : 0)) printf("%s in mode %d: %d\n", c.name, mode, code), failures++;
            });
            int expected = c.spoils[mode] ? 901 : 0;
            EXPECT(cuMemsetD32Async(a.device, 0, 4, stream) == expected);
            EXPECT(cuStreamEndCapture(stream, &graph) == expected);
            if (!expected) EXPECT(!cuGraphDestroy(graph));
        }
    // Of a stream that does not exclude the legacy stream.
    for (bool copies : {false, true}) {
        EXPECT(!cuStreamBeginCapture_v2(blocking, 2));
        elsewhere([&] { EXPECT((copies ? cuMemsetD32Async(a.device, 0, 4, nullptr) : cuStreamSynchronize(nullptr)) == 906); });
        EXPECT(cuStreamEndCapture(blocking, &graph) == 901);
    }
    // Two threads that record and launch at the same time do not disturb each other.
    std::atomic<int> ready{0};
    auto work = [&] {
        void *context, *own, *graph, *executable;
        EXPECT(!cuDevicePrimaryCtxRetain(&context, 0) && !cuCtxSetCurrent(context) && !cuStreamCreate(&own, 1));
        Array b(Type::f32, 1000), c(Type::f32, 1000);
        b.fill(7);
        Numbers numbers{b.device, c.device, 1000};
        void *pointers[] = {&numbers};
        ready++;
        while (ready < 2) std::this_thread::yield();
        for (int round = 0; round < 50; round++) {
            EXPECT(!cuStreamBeginCapture_v2(own, 1));
            EXPECT(!cuLaunchKernel(function("twice"), 4, 1, 1, 256, 1, 1, 0, own, pointers, nullptr));
            EXPECT(!cuStreamEndCapture(own, &graph) && !cuGraphInstantiateWithFlags(&executable, graph, 0));
            EXPECT(!cuGraphLaunch(executable, own) && !cuStreamSynchronize(own));
            EXPECT(!cuGraphExecDestroy(executable) && !cuGraphDestroy(graph));
        }
        c.fetch();
        for (size_t i = 0; i < 1000; i++) EXPECT(c.at(i) == 2 * b.at(i));
        ready++;
        while (ready < 4) std::this_thread::yield();
    };
    std::thread first(work), second(work);
    first.join(), second.join();
    EXPECT(!cuDevicePrimaryCtxRelease_v2(0) && !cuDevicePrimaryCtxRelease_v2(0));
}

// Recordings that are spoiled by order, as if another thread had done it.
void spoiled_by_order() {
    setenv("POINTWISE_EMULATOR_SPOILED", "1,3", 1);
    EXPECT(contains(said(true, [] {
        Array a(Type::f32, 4);
        for (int number = 1; number < 5; number++) {
            void *graph;
            int expected = number % 2 ? 901 : 0;
            EXPECT(!cuStreamBeginCapture_v2(stream, 1));
            EXPECT(cuMemsetD32Async(a.device, 0, 4, stream) == expected);
            EXPECT(cuStreamEndCapture(stream, &graph) == expected);
        }
    }), "recording 3 is spoiled, as POINTWISE_EMULATOR_SPOILED says"));
    setenv("POINTWISE_EMULATOR_SPOILED", "first", 1);
    EXPECT(contains(said(false, [] { cuStreamBeginCapture_v2(stream, 1); }), "not a list of numbers such as 1,2"));
    unsetenv("POINTWISE_EMULATOR_SPOILED");
}

// With the last use of the context goes all that belongs to it.
void contexts() {
    const char *log = "self_test.log";
    unlink(log);
    setenv("POINTWISE_EMULATOR_LOG", log, 1);
    std::string text = said(true, [] {
        void *context, *address, *blas, *dnn, *event, *twice = function("twice");
        EXPECT(!cuMemAlloc_v2(&address, 64) && !cublasCreate_v2(&blas) && !cudnnCreate(&dnn) && !cuEventCreate(&event, 2));
        EXPECT(!cuDevicePrimaryCtxRetain(&context, 0) && !cuDevicePrimaryCtxRelease_v2(0));
        EXPECT(!cuMemsetD32Async(address, 0, 16, stream));
        EXPECT(!cuDevicePrimaryCtxRelease_v2(0));
        EXPECT(cuMemsetD32Async(address, 0, 16, stream) == 709);
        EXPECT(cuDevicePrimaryCtxRelease_v2(0) == 201);
        EXPECT(!cuDevicePrimaryCtxRetain(&context, 0) && !cuCtxSetCurrent(context));
        void *fresh;
        EXPECT(!cuStreamCreate(&fresh, 1));
        EXPECT(cuMemsetD32Async(address, 0, 16, fresh) == 1 && cuMemFree_v2(address) == 1);
        EXPECT(cuStreamSynchronize(stream) == 400 || stream == fresh);
        EXPECT(cuEventRecord(event, fresh) == 400);
        EXPECT(cuLaunchKernel(twice, 1, 1, 1, 1, 1, 1, 0, fresh, nullptr, nullptr) == 400);
        EXPECT(cublasDestroy_v2(blas) == 1 && cudnnDestroy(dnn) == 1001);
        EXPECT(!cublasCreate_v2(&blas) && !cublasDestroy_v2(blas) && !cudnnCreate(&dnn) && !cudnnDestroy(dnn));
    });
    unsetenv("POINTWISE_EMULATOR_LOG");
    EXPECT(contains(text, "the context was destroyed"));
    EXPECT(contains(text, "cublasDestroy: a handle of a context that was destroyed"));
    std::string lines;
    if (FILE *file = fopen(log, "r")) {
        for (int c; (c = fgetc(file)) != EOF;) lines += char(c);
        fclose(file);
    }
    unlink(log);
    for (const char *line : {"sync cublasDestroy\n", "sync cudnnDestroy\n", "sync cuDevicePrimaryCtxRelease\ncontext destroyed\n"})
        EXPECT(contains(lines, line));
}

// cudnnConvolution*AlgoPerf_t
struct Result {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};

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
    // A long sum over few tiles is rounded to bf16 in pieces, unless that is disallowed or the result is f32.
    float one = 1, zero = 0;
    {
        constexpr int k = 8192;
        Array deep(Type::bf16, 64 * k), wide(Type::bf16, 64 * k), to(Type::bf16, 64 * 64), to_f32(Type::f32, 64 * 64);
        deep.fill(4), wide.fill(5);
        double error[3];
        int way = 0;
        for (unsigned mode : {0u, 16u, 0u}) {
            Array &out = way == 2 ? to_f32 : to;
            EXPECT(!cublasSetMathMode(handle, mode));
            EXPECT(!cublasGemmEx(handle, 1, 0, 64, 64, k, &one, deep.device, 14, k, wide.device, 14, k, &zero, out.device, way == 2 ? 0 : 14, 64, 68, -1));
            out.fetch();
            double sum = 0;
            for (int j = 0; j < 64; j++)
                for (int i = 0; i < 64; i++) {
                    double value = 0;
                    for (int p = 0; p < k; p++) value += double(deep.at(p + i * k)) * wide.at(p + j * k);
                    sum += std::pow(out.at(i + j * 64) - value, 2);
                }
            error[way++] = std::sqrt(sum / (64 * 64));
        }
        EXPECT(error[0] > 2 * error[1] && error[2] < error[1] / 10);
        EXPECT(cublasSetMathMode(handle, 32) == 7);
    }
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
        Result results[16];
        int count;
        EXPECT(!cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle, x_shape, y_shape, v, w_shape, 16, &count, results));
        int deterministic = 0, other = 0;
        for (int i = 0; i < count; i++) (results[i].status ? other : results[i].determinism ? deterministic : other)++;
        EXPECT(deterministic && other && results[0].status == 0);
    }
}

// What is listed of a convolution of NHWC, by rules and by trying, and what a program must make of it.
void algorithms() {
    void *handle, *x_shape, *y_shape, *w_shape, *v;
    EXPECT(!cudnnCreate(&handle) && !cudnnSetStream(handle, stream));
    EXPECT(!cudnnCreateTensorDescriptor(&x_shape) && !cudnnCreateTensorDescriptor(&y_shape) && !cudnnCreateFilterDescriptor(&w_shape));
    EXPECT(!cudnnCreateConvolutionDescriptor(&v) && !cudnnSetConvolution2dDescriptor(v, 1, 1, 1, 1, 1, 1, 1, 0));
    Array workspace(Type::bf16, 1 << 16);
    struct Case {
        int type, math;
        std::vector<int> kinds; // Of arithmetic, the fastest first.
    } cases[] = {{0, 0, {2, 1, 0, 3}}, {0, 3, {0, 3}}, {0, 1, {1, 0, 3}}, {9, 1, {1, 0}}, {9, 0, {1, 0}}};
    for (const Case &c : cases) {
        EXPECT(!cudnnSetTensor4dDescriptor(x_shape, 1, c.type, 2, 8, 6, 6) && !cudnnSetTensor4dDescriptor(y_shape, 1, c.type, 2, 8, 6, 6));
        EXPECT(!cudnnSetFilter4dDescriptor(w_shape, c.type, 1, 8, 8, 3, 3) && !cudnnSetConvolutionMathType(v, c.math));
        Array x(c.type ? Type::bf16 : Type::f32, 2 * 6 * 6 * 8), w(x.type, 8 * 8 * 9), y(x.type, x.count);
        for (int pass = 0; pass < 4; pass++) {
            Result results[16];
            int count = 0;
            bool tried = pass == 3;
            int code = pass == 0 ? cudnnGetConvolutionForwardAlgorithm_v7(handle, x_shape, w_shape, v, y_shape, 16, &count, results)
                     : pass == 1 ? cudnnGetConvolutionBackwardDataAlgorithm_v7(handle, w_shape, y_shape, v, x_shape, 16, &count, results)
                     : pass == 2 ? cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle, x_shape, y_shape, v, w_shape, 16, &count, results)
                                 : cudnnFindConvolutionForwardAlgorithmEx(handle, x_shape, x.device, w_shape, w.device, v, y_shape, y.device, 16,
                                                                          &count, results, workspace.device, 2 * workspace.count);
            EXPECT(!code);
            size_t good = 2 * c.kinds.size();
            EXPECT(count == int(good) + (pass % 3 == 0 ? 6 : pass == 1 ? 4 : 5));
            std::vector<int> kinds;
            for (int i = 0; i < count; i++) {
                const Result &r = results[i];
                if (i >= int(good)) {
                    EXPECT(r.status == 3000 || (tried && r.status == 4003));
                    continue;
                }
                // Those backward with the number 0 are not deterministic, and in TF32 and f16 the first of the list.
                EXPECT(r.status == 0 && r.algorithm <= 1 && r.determinism == (pass == 1 || pass == 2 ? r.algorithm : 1));
                EXPECT(tried ? r.time > 0 && (i == 0 || r.time >= results[i - 1].time) : r.time == -1);
                if (r.algorithm == results[0].algorithm) kinds.push_back(r.math);
                size_t bytes;
                EXPECT(!cudnnSetConvolutionMathType(v, r.math));
                if (pass % 3 == 0) EXPECT(!cudnnGetConvolutionForwardWorkspaceSize(handle, x_shape, w_shape, v, y_shape, r.algorithm, &bytes) && bytes == r.memory);
                EXPECT(!cudnnSetConvolutionMathType(v, c.math));
            }
            EXPECT(kinds == c.kinds);
            // The fastest arithmetic wants the largest workspace.
            for (int i = 0; i < int(good); i++) {
                const Result &first = results[0], &r = results[i];
                if (first.algorithm == 1 && r.algorithm == 1 && (r.math == 0 || r.math == 3) && r.math != first.math) EXPECT(r.memory < first.memory);
            }
        }
        Result none[16];
        int count;
        EXPECT(!cudnnFindConvolutionForwardAlgorithmEx(handle, x_shape, x.device, w_shape, w.device, v, y_shape, y.device, 16, &count, none, nullptr, 0));
        for (int i = 0; i < count; i++) EXPECT(none[i].status || none[i].memory == 0);
    }
    // f16 has no number as large.
    EXPECT(!cudnnSetTensor4dDescriptor(x_shape, 1, 0, 2, 8, 6, 6) && !cudnnSetTensor4dDescriptor(y_shape, 1, 0, 2, 8, 6, 6));
    EXPECT(!cudnnSetFilter4dDescriptor(w_shape, 0, 1, 8, 8, 3, 3));
    Array x(Type::f32, 2 * 6 * 6 * 8), w(Type::f32, 8 * 8 * 9), y(Type::f32, x.count);
    EXPECT(!cuMemsetD32Async(x.device, emulator::bits_of(1e6f), x.count, stream) && !cuMemsetD32Async(w.device, emulator::bits_of(1.0f), w.count, stream));
    for (int math = 0; math < 4; math++) {
        float one = 1, zero = 0;
        EXPECT(!cudnnSetConvolutionMathType(v, math));
        EXPECT(!cudnnConvolutionForward(handle, &one, x_shape, x.device, w_shape, w.device, v, 0, nullptr, 0, &zero, y_shape, y.device));
        y.fetch();
        EXPECT(std::isinf(y.at(0)) == (math == 2));
    }
    EXPECT(std::isinf(emulator::f16(1e6f)) && emulator::f16(1e-9f) == 0 && emulator::f16(0.5f) == 0.5f);
}

// Algorithms that are listed as good and do not work.
void failing_algorithms() {
    setenv("POINTWISE_EMULATOR_FAILING", "forward:1,filter:0", 1);
    std::string text = said(true, [] {
        void *handle, *shape, *w_shape, *v;
        EXPECT(!cudnnCreate(&handle) && !cudnnCreateTensorDescriptor(&shape) && !cudnnSetTensor4dDescriptor(shape, 1, 0, 1, 4, 4, 4));
        EXPECT(!cudnnCreateFilterDescriptor(&w_shape) && !cudnnSetFilter4dDescriptor(w_shape, 0, 1, 4, 4, 1, 1));
        EXPECT(!cudnnCreateConvolutionDescriptor(&v) && !cudnnSetConvolution2dDescriptor(v, 0, 0, 1, 1, 1, 1, 1, 0));
        Array x(Type::f32, 64), y(Type::f32, 64), w(Type::f32, 16), workspace(Type::f32, 1 << 14);
        x.fill(1), w.fill(2);
        size_t bytes;
        float one = 1, zero = 0;
        Result results[16];
        int count;
        EXPECT(!cudnnGetConvolutionForwardAlgorithm_v7(handle, shape, w_shape, v, shape, 16, &count, results) && results[0].algorithm == 1);
        EXPECT(!cudnnGetConvolutionForwardWorkspaceSize(handle, shape, w_shape, v, shape, 1, &bytes));
        EXPECT(cudnnConvolutionForward(handle, &one, shape, x.device, w_shape, w.device, v, 1, workspace.device, 1 << 16, &zero, shape, y.device) == 5000);
        char sentence[64];
        cudnnGetLastErrorString(sentence, sizeof sentence);
        EXPECT(std::string(sentence) == std::string("cudnnConvolutionForward: algorithm 1 fails, as POINTWISE_EMULATOR_FAILING says").substr(0, 63));
        EXPECT(!cudnnConvolutionForward(handle, &one, shape, x.device, w_shape, w.device, v, 0, nullptr, 0, &zero, shape, y.device));
        EXPECT(!cudnnConvolutionBackwardData(handle, &one, w_shape, w.device, shape, y.device, v, 0, nullptr, 0, &zero, shape, x.device));
        EXPECT(cudnnConvolutionBackwardFilter(handle, &one, shape, x.device, shape, y.device, v, 0, nullptr, 0, &zero, w_shape, w.device) == 5000);
    });
    setenv("POINTWISE_EMULATOR_FAILING", "sideways:1", 1);
    EXPECT(contains(said(false, [] {
        void *handle, *shape, *w_shape, *v;
        cudnnCreate(&handle), cudnnCreateTensorDescriptor(&shape), cudnnSetTensor4dDescriptor(shape, 1, 0, 1, 4, 4, 4);
        cudnnCreateFilterDescriptor(&w_shape), cudnnSetFilter4dDescriptor(w_shape, 0, 1, 4, 4, 1, 1);
        cudnnCreateConvolutionDescriptor(&v), cudnnSetConvolution2dDescriptor(v, 0, 0, 1, 1, 1, 1, 1, 0);
        Array x(Type::f32, 64), w(Type::f32, 16);
        float one = 1;
        cudnnConvolutionForward(handle, &one, shape, x.device, w_shape, w.device, v, 0, nullptr, 0, &one, shape, x.device);
    }), "not a list such as forward:1,data:0,filter:1"));
    unsetenv("POINTWISE_EMULATOR_FAILING");
}

} // namespace

int main() {
    // Before this process has a device, for children cannot inherit one.
    mistakes();
    images();
    contexts();
    EXPECT(contains(said(true, captures_and_threads), "cublasDestroy while another thread's stream records a graph"));
    spoiled_by_order();
    failing_algorithms();
    start();
    algorithms();
    kernels();
    graphs();
    products();
    convolutions();
    EXPECT(!cuCtxSynchronize());
    printf(failures ? "%d failures\n" : "the emulator's own tests pass\n", failures);
    return failures != 0;
}
