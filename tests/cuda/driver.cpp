// The driver, libcuda.so.1: one device whose streams do everything at once, in the order of the calls.

#include "blocks.h"
#include "emulator.h"
#include "image.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace emulator {
namespace {

struct Recorded {
    Node kind;
    std::string line;
    std::function<void()> work;
};

struct Stream;

// A graph that streams record.
struct Capture {
    bool spoiled = false;
    int mode; // CUstreamCaptureMode: 0 global, 1 thread-local, 2 relaxed.
    std::thread::id thread;
    Stream *origin;
    std::set<Stream *> joined, ahead; // Of other streams; those with work that the origin does not wait for.
    std::vector<Recorded> nodes;
    uint64_t number;
};

struct Stream {
    unsigned flags = 0;
    std::shared_ptr<Capture> capture;
};

struct Event {
    unsigned flags = 0;
    bool recorded = false;
    std::chrono::steady_clock::time_point time;
    std::shared_ptr<Capture> capture;
    Stream *stream = nullptr;
};

struct Graph {
    std::vector<Recorded> nodes;
};

struct Module {
    unsigned binary, ptx; // For which compute capability, and of which PTX.
};

struct Function {
    Module *module;
    Kernel *kernel;
};

// Handles that were given out and not destroyed.
template <class T> struct Handles {
    std::map<void *, std::unique_ptr<T>> live;
    void *add(std::unique_ptr<T> thing) {
        void *handle = thing.get();
        live.emplace(handle, std::move(thing));
        return handle;
    }
    T *find(void *handle) {
        auto at = live.find(handle);
        return at == live.end() ? nullptr : at->second.get();
    }
};

std::recursive_mutex state;
Handles<Stream> streams;
Handles<Event> events;
Handles<Graph> graphs, executables;
Handles<Module> modules;
Handles<Function> functions;
Stream legacy;
thread_local Stream per_thread;
std::vector<std::shared_ptr<Capture>> captures;
std::atomic<bool> initialized;
std::atomic<int> contexts; // Uses of the only context.
std::atomic<uint64_t> number_of_context;
char context_handle, pool_handle;
thread_local void *current_context;
uint64_t release_threshold;

std::map<std::string, Kernel *> &kernels() {
    static std::map<std::string, Kernel *> kernels;
    return kernels;
}

thread_local char said[1024];

void say(const char *format, va_list arguments) {
    vsnprintf(said, sizeof said, format, arguments);
    fprintf(stderr, "CUDA emulator: %s\n", said);
}

Stream *find_stream(void *handle) {
    if (handle == nullptr || handle == reinterpret_cast<void *>(1)) return &legacy;
    if (handle == reinterpret_cast<void *>(2)) return &per_thread;
    return streams.find(handle);
}

int no_context(const char *call) {
    if (!initialized) return refuse(not_initialized, "%s before cuInit", call);
    if (!current_context) return refuse(invalid_context, "%s, but this thread has no context", call);
    if (!contexts) return refuse(context_destroyed, "%s, but the context was destroyed", call);
    return success;
}

int spoil(Capture &capture, int code, const char *call) {
    capture.spoiled = true;
    bool own = capture.thread == std::this_thread::get_id();
    return refuse(code, "%s while %s records a graph", call, own ? "a stream" : "another thread's stream");
}

// Whatever waits for the whole device, or for all streams that do not exclude it, must not be done while a graph is recorded: not by another
// thread, and in no mode of recording. NVIDIA's driver then spoils every one of these graphs.
int outside_of_every_capture(const char *call) {
    std::lock_guard lock(state);
    int code = success;
    for (auto &capture : captures) code = spoil(*capture, capture_unsupported, call);
    return code;
}

// Whether POINTWISE_EMULATOR_SPOILED names the recording of this number, counted from 1 in a process, such as "1,2".
bool spoiled_by_order(uint64_t number) {
    const char *at = getenv("POINTWISE_EMULATOR_SPOILED");
    while (at && *at) {
        char *end;
        uint64_t named = strtoull(at, &end, 10);
        if (end == at || (*end && *end != ',')) stop("POINTWISE_EMULATOR_SPOILED is \"%s\", not a list of numbers such as 1,2", at);
        if (named == number) return true;
        at = *end ? end + 1 : end;
    }
    return false;
}

// The legacy stream waits for every blocking stream, and they for it.
int legacy_outside_of_capture(const char *call) {
    int code = success;
    for (auto &capture : captures)
        if (!(capture->origin->flags & 1)) code = spoil(*capture, capture_implicit, call);
    return code;
}

void forget(const std::shared_ptr<Capture> &capture) {
    capture->origin->capture.reset();
    for (Stream *stream : capture->joined) stream->capture.reset();
    captures.erase(std::find(captures.begin(), captures.end(), capture));
}

// All that belongs to the context goes with it.
void destroy_context() {
    while (!captures.empty()) {
        captures.back()->spoiled = true;
        forget(captures.back());
    }
    executables.live.clear(), graphs.live.clear(), events.live.clear(), streams.live.clear();
    functions.live.clear(), modules.live.clear();
    release_all();
    number_of_context++;
    log("context destroyed");
}

void load_kernels() {
    static std::once_flag once;
    std::call_once(once, [] {
        Dl_info here;
        dladdr(reinterpret_cast<void *>(load_kernels), &here);
        std::string folder = here.dli_fname;
        folder.resize(folder.rfind('/') + 1);
        std::string path = folder + "libkernels.so";
        if (!dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) stop("the kernels cannot be loaded: %s", dlerror());
    });
}

int copy(const char *call, Copy direction, void *to, const void *from, size_t bytes, void *stream) {
    if (int code = no_context(call)) return code;
    if (!bytes) return success;
    if (direction == Copy::any) {
        bool to_device = on_device(to, 1), from_device = on_device(from, 1);
        direction = to_device && from_device ? Copy::on_device : to_device ? Copy::to_device : Copy::to_host;
    }
    bool to_device = direction != Copy::to_host, from_device = direction != Copy::to_device;
    if (to_device && !check_range(call, "the target", to, bytes)) return invalid_value;
    if (from_device && !check_range(call, "the source", from, bytes)) return invalid_value;
    if (!to_device && on_device(to, 0)) return refuse(invalid_value, "%s: the target is not in the host's memory", call);
    if (!from_device && on_device(from, 0)) return refuse(invalid_value, "%s: the source is not in the host's memory", call);
    const char *const names[] = {"htod", "dtoh", "dtod"};
    return submit(stream, Node::copy, std::string("copy ") + names[int(direction)] + " bytes=" + std::to_string(bytes),
                  [=] { memmove(to, from, bytes); });
}

template <class T> int set(const char *call, void *to, T value, size_t count, void *stream) {
    if (int code = no_context(call)) return code;
    if (!count) return success;
    if (reinterpret_cast<uintptr_t>(to) % sizeof(T)) return refuse(invalid_value, "%s: a misaligned address", call);
    if (!check_range(call, "the target", to, count * sizeof(T))) return invalid_value;
    return submit(stream, Node::set, "set bytes=" + std::to_string(count * sizeof(T)) + " value=" + std::to_string(value),
                  [=] {
                      if (value == 0) return fill_with_zeros(to, count * sizeof(T));
                      std::fill_n(static_cast<T *>(to), count, value);
                  });
}

int synchronize(const char *call, void *stream, const char *what) {
    if (int code = no_context(call)) return code;
    if (!stream || stream == reinterpret_cast<void *>(1)) {
        std::lock_guard lock(state);
        if (int code = legacy_outside_of_capture(call)) return code;
    }
    if (int code = outside_of_capture(call, stream)) return code;
    check_guards(call);
    log("sync %s", what);
    return success;
}

Kernel *find_kernel(const char *call, void *handle) {
    std::lock_guard lock(state);
    Function *function = functions.find(handle);
    if (function) return function->kernel;
    return refuse(invalid_handle, "%s: a function that does not exist, or whose module does not any more", call), nullptr;
}

int launch(void *handle, Index grid, Index block, unsigned shared, void *stream, void **arguments, void **extra) {
    if (int code = no_context("cuLaunchKernel")) return code;
    Kernel *kernel = find_kernel("cuLaunchKernel", handle);
    if (!kernel) return invalid_handle;
    const char *name = kernel->name;
    uint64_t threads = uint64_t(block.x) * block.y * block.z;
    if (!grid.x || !grid.y || !grid.z || !threads) return refuse(invalid_value, "%s: a grid or a block of size 0", name);
    if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return refuse(invalid_value, "%s: a grid of %u x %u x %u blocks", name, grid.x, grid.y, grid.z);
    if (block.x > 1024 || block.y > 1024 || block.z > 64 || threads > kernel->max_threads)
        return refuse(invalid_value, "%s: a block of %u x %u x %u threads, at most %u", name, block.x, block.y, block.z, kernel->max_threads);
    if (shared > std::max(kernel->max_dynamic_shared, 48u << 10))
        return refuse(invalid_value, "%s: %u bytes of dynamic shared memory; above 48 KiB they must be allowed first", name, shared);
    if (extra) return refuse(not_supported, "%s: arguments in a buffer", name);
    std::shared_ptr<void> copied = kernel->copy(arguments);
    const void *pointers[max_arguments];
    size_t count = kernel->pointers(copied.get(), pointers);
    for (size_t i = 0; i < count; i++)
        if (pointers[i] && !on_device(pointers[i], 0) && !host_range(pointers[i], 0)) {
            check_range(name, ("pointer " + std::to_string(i)).c_str(), pointers[i], 0);
            return 700; // CUDA_ERROR_ILLEGAL_ADDRESS
        }
    char line[256];
    snprintf(line, sizeof line, "launch %s grid=%u,%u,%u block=%u,%u,%u shared=%u", name, grid.x, grid.y, grid.z, block.x, block.y,
             block.z, shared);
    return submit(stream, Node::kernel, line, [=] { run(kernel, copied.get(), grid, block, shared); });
}

// CU_STREAM_CAPTURE_STATUS_*.
int capture_status(Stream *stream) { return !stream->capture ? 0 : stream->capture->spoiled ? 2 : 1; }

const std::map<int, std::pair<const char *, const char *>> errors = {
    {0, {"CUDA_SUCCESS", "no error"}},
    {1, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
    {2, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
    {3, {"CUDA_ERROR_NOT_INITIALIZED", "initialization error"}},
    {101, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
    {200, {"CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"}},
    {201, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
    {209, {"CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"}},
    {218, {"CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"}},
    {301, {"CUDA_ERROR_FILE_NOT_FOUND", "file not found"}},
    {400, {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}},
    {401, {"CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"}},
    {500, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
    {700, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
    {709, {"CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"}},
    {801, {"CUDA_ERROR_NOT_SUPPORTED", "operation not supported"}},
    {900, {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"}},
    {901, {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}},
    {902, {"CUDA_ERROR_STREAM_CAPTURE_MERGE", "operation would result in a merge of separate capture sequences"}},
    {903, {"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began"}},
    {904, {"CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"}},
    {905, {"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"}},
    {906, {"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing blocking stream"}},
    {907, {"CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"}},
    {908, {"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture sequence from another thread"}},
};

} // namespace

void stop(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    abort();
}

int refuse(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    return code;
}

const char *last_refusal() { return said; }

void log(const char *format, ...) {
    static FILE *const file = [] {
        const char *name = getenv("POINTWISE_EMULATOR_LOG");
        FILE *file = name && *name ? fopen(name, "a") : nullptr;
        if (file) setvbuf(file, nullptr, _IOLBF, 0);
        return file;
    }();
    if (!file) return;
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(file, "%s\n", text);
}

int submit(void *handle, Node kind, std::string line, std::function<void()> work) {
    if (int code = no_context(line.c_str())) return code;
    {
        std::lock_guard lock(state);
        Stream *stream = find_stream(handle);
        if (!stream) return refuse(invalid_handle, "%s: a stream that does not exist", line.c_str());
        if (stream->capture) {
            Capture &capture = *stream->capture;
            if (capture.spoiled) return capture_invalidated;
            log("record %s", line.c_str());
            capture.nodes.push_back({kind, line, std::move(work)});
            if (stream != capture.origin) capture.ahead.insert(stream);
            return success;
        }
        if (stream == &legacy)
            if (int code = legacy_outside_of_capture(line.c_str())) return code;
    }
    log("%s", line.c_str());
    work();
    return success;
}

int outside_of_capture(const char *call, void *handle) {
    std::lock_guard lock(state);
    Stream *stream = handle ? find_stream(handle) : nullptr;
    if (handle && !stream) return refuse(invalid_handle, "%s: a stream that does not exist", call);
    if (stream && stream->capture) return spoil(*stream->capture, capture_unsupported, call);
    int code = success;
    for (auto &capture : captures)
        if (!handle && (capture->mode == 0 || (capture->mode == 1 && capture->thread == std::this_thread::get_id())))
            code = spoil(*capture, capture_unsupported, call);
    return code;
}

int synchronize_device(const char *call, const char *why) {
    if (int code = outside_of_every_capture(call)) return code;
    check_guards(call);
    log("sync %s", why);
    return success;
}

uint64_t context_number() { return number_of_context; }

void add_kernel(Kernel *kernel) {
    if (!kernels().emplace(kernel->name, kernel).second) stop("two kernels have the name %s", kernel->name);
}

} // namespace emulator

using namespace emulator;
using Lock = std::lock_guard<std::recursive_mutex>;

// Initialization, the device and its context.

CUDA int cuInit(unsigned) {
    if (!initialized.exchange(true)) install_fault_handler();
    return success;
}
CUDA int cuDriverGetVersion(int *version) { return *version = 13000, success; }
CUDA int cuDeviceGetCount(int *count) { return *count = 1, success; }
CUDA int cuDeviceGet(int *device, int ordinal) {
    if (!initialized) return not_initialized;
    if (ordinal != 0) return invalid_device;
    return *device = 0, success;
}
CUDA int cuDeviceGetName(char *name, int length, int) { return snprintf(name, length, "CUDA emulator"), success; }
CUDA int cuDeviceGetUuid_v2(char *uuid, int) { return memset(uuid, 0, 16), success; }
CUDA int cuDeviceTotalMem_v2(size_t *bytes, int) {
    size_t free;
    return memory_info(&free, bytes), success;
}
CUDA int cuDeviceGetAttribute(int *value, int attribute, int) {
    switch (attribute) {
    case 1: case 2: case 3: *value = 1024; break; // Threads of a block, in all and by x and y.
    case 4: *value = 64; break;
    case 5: *value = 0x7fffffff; break;
    case 6: case 7: *value = 65535; break;
    case 8: *value = 48 << 10; break; // Shared memory of a block.
    case 9: *value = 64 << 10; break;
    case 10: *value = 32; break; // Lanes of a warp.
    case 12: case 82: *value = 65536; break; // Registers.
    case 13: *value = 1000000; break;
    case 14: *value = 512; break;
    case 16: *value = 132; break; // Multiprocessors.
    case 38: *value = 50 << 20; break; // Second-level cache.
    case 39: *value = 2048; break; // Threads of a multiprocessor.
    case 75: *value = architecture() / 10; break; // Compute capability.
    case 76: *value = architecture() % 10; break;
    case 81: *value = 228 << 10; break;
    case 97: *value = 227 << 10; break; // Shared memory of a block that asks for it.
    case 106: *value = 32; break;
    case 31: case 41: case 78: case 83: case 95: case 115: *value = 1; break; // Things that can be done; 115 is asynchronous allocation.
    default: *value = 0;
    }
    return success;
}
CUDA int cuDevicePrimaryCtxRetain(void **context, int) {
    Lock lock(state);
    return contexts++, *context = &context_handle, success;
}
CUDA int cuDevicePrimaryCtxRelease_v2(int) {
    Lock lock(state);
    if (!contexts) return refuse(invalid_context, "cuDevicePrimaryCtxRelease: the context is not in use");
    if (contexts > 1) return contexts--, success;
    int code = synchronize_device("cuDevicePrimaryCtxRelease", "cuDevicePrimaryCtxRelease");
    contexts = 0;
    destroy_context();
    return code;
}
CUDA int cuDevicePrimaryCtxReset_v2(int) {
    Lock lock(state);
    int code = synchronize_device("cuDevicePrimaryCtxReset", "cuDevicePrimaryCtxReset");
    destroy_context();
    return code;
}
CUDA int cuCtxGetCurrent(void **context) { return *context = current_context, success; }
CUDA int cuCtxSetCurrent(void *context) {
    if (context && context != &context_handle) return invalid_context;
    return current_context = context, success;
}
CUDA int cuCtxGetDevice(int *device) { return *device = 0, no_context("cuCtxGetDevice"); }
CUDA int cuCtxSetFlags(unsigned) { return no_context("cuCtxSetFlags"); }
CUDA int cuCtxGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, success; }
CUDA int cuCtxSynchronize() {
    int code = no_context("cuCtxSynchronize");
    return code ? code : synchronize_device("cuCtxSynchronize", "context");
}
CUDA int cuGetErrorName(int code, const char **name) {
    auto at = errors.find(code);
    return at == errors.end() ? (*name = nullptr, invalid_value) : (*name = at->second.first, success);
}
CUDA int cuGetErrorString(int code, const char **text) {
    auto at = errors.find(code);
    return at == errors.end() ? (*text = nullptr, invalid_value) : (*text = at->second.second, success);
}

// Memory.

CUDA int cuMemGetInfo_v2(size_t *free, size_t *total) {
    memory_info(free, total);
    return no_context("cuMemGetInfo");
}
CUDA int cuMemAlloc_v2(void **address, size_t bytes) {
    if (int code = no_context("cuMemAlloc")) return code;
    if (int code = outside_of_capture("cuMemAlloc", nullptr)) return code;
    return allocate(address, bytes);
}
CUDA int cuMemAllocAsync(void **address, size_t bytes, void *handle) {
    if (int code = no_context("cuMemAllocAsync")) return code;
    Lock lock(state);
    Stream *stream = find_stream(handle);
    if (!stream) return refuse(invalid_handle, "cuMemAllocAsync: a stream that does not exist");
    // A graph may allocate, but such memory lives only while the graph runs, and nothing here needs it.
    if (stream->capture) return spoil(*stream->capture, not_supported, "cuMemAllocAsync");
    return allocate(address, bytes);
}
CUDA int cuMemFree_v2(void *address) {
    if (int code = no_context("cuMemFree")) return code;
    // The driver waits for all work that may use the memory.
    if (int code = outside_of_every_capture("cuMemFree")) return code;
    return release(address, "cuMemFree");
}
CUDA int cuMemFreeAsync(void *address, void *handle) {
    if (int code = no_context("cuMemFreeAsync")) return code;
    Lock lock(state);
    Stream *stream = find_stream(handle);
    if (!stream) return refuse(invalid_handle, "cuMemFreeAsync: a stream that does not exist");
    if (stream->capture) return spoil(*stream->capture, invalid_value, "cuMemFreeAsync of memory that the graph has not allocated");
    return release(address, "cuMemFreeAsync");
}
CUDA int cuMemHostAlloc(void **address, size_t bytes, unsigned) {
    if (int code = no_context("cuMemHostAlloc")) return code;
    if (int code = outside_of_capture("cuMemHostAlloc", nullptr)) return code;
    if (posix_memalign(address, 4096, std::max<size_t>(bytes, 1))) return out_of_memory;
    memset(*address, 0xff, bytes);
    return remember_host(*address, bytes), success;
}
CUDA int cuMemAllocHost_v2(void **address, size_t bytes) { return cuMemHostAlloc(address, bytes, 0); }
CUDA int cuMemHostGetDevicePointer_v2(void **device, void *host, unsigned) { return *device = host, host_range(host, 1) ? success : invalid_value; }
CUDA int cuMemFreeHost(void *address) {
    if (int code = no_context("cuMemFreeHost")) return code;
    if (int code = outside_of_every_capture("cuMemFreeHost")) return code;
    if (!forget_host(address)) return refuse(invalid_value, "cuMemFreeHost: %p was not allocated", address);
    return free(address), success;
}
CUDA int cuMemHostRegister_v2(void *address, size_t bytes, unsigned) { return remember_host(address, bytes), success; }
CUDA int cuMemHostUnregister(void *address) { return forget_host(address) ? success : invalid_value; }
CUDA int cuDeviceGetDefaultMemPool(void **pool, int) { return *pool = &pool_handle, success; }
CUDA int cuDeviceGetMemPool(void **pool, int) { return *pool = &pool_handle, success; }
CUDA int cuMemPoolSetAttribute(void *, int attribute, void *value) {
    if (attribute == 4) release_threshold = *static_cast<uint64_t *>(value);
    return success;
}
CUDA int cuMemPoolGetAttribute(void *, int attribute, void *value) {
    size_t free, total;
    memory_info(&free, &total);
    *static_cast<uint64_t *>(value) = attribute == 4 ? release_threshold : total - free;
    return success;
}
CUDA int cuMemPoolTrimTo(void *, size_t) { return success; }

// A copy or a fill that is not asynchronous belongs to the legacy stream, which a stream that records does not know.
static int now(const char *call) {
    if (int code = no_context(call)) return code;
    {
        Lock lock(state);
        if (int code = legacy_outside_of_capture(call)) return code;
    }
    return outside_of_capture(call, nullptr);
}
CUDA int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *stream) {
    return copy("cuMemcpyHtoDAsync", Copy::to_device, to, from, bytes, stream);
}
CUDA int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *stream) {
    return copy("cuMemcpyDtoHAsync", Copy::to_host, to, from, bytes, stream);
}
CUDA int cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t bytes, void *stream) {
    return copy("cuMemcpyDtoDAsync", Copy::on_device, to, from, bytes, stream);
}
CUDA int cuMemcpyAsync(void *to, const void *from, size_t bytes, void *stream) {
    return copy("cuMemcpyAsync", Copy::any, to, from, bytes, stream);
}
CUDA int cuMemcpyHtoD_v2(void *to, const void *from, size_t bytes) {
    int code = now("cuMemcpyHtoD");
    return code ? code : copy("cuMemcpyHtoD", Copy::to_device, to, from, bytes, nullptr);
}
CUDA int cuMemcpyDtoH_v2(void *to, const void *from, size_t bytes) {
    int code = now("cuMemcpyDtoH");
    return code ? code : copy("cuMemcpyDtoH", Copy::to_host, to, from, bytes, nullptr);
}
CUDA int cuMemcpyDtoD_v2(void *to, const void *from, size_t bytes) {
    int code = now("cuMemcpyDtoD");
    return code ? code : copy("cuMemcpyDtoD", Copy::on_device, to, from, bytes, nullptr);
}
CUDA int cuMemsetD8Async(void *to, uint8_t value, size_t count, void *stream) { return set("cuMemsetD8Async", to, value, count, stream); }
CUDA int cuMemsetD16Async(void *to, uint16_t value, size_t count, void *stream) { return set("cuMemsetD16Async", to, value, count, stream); }
CUDA int cuMemsetD32Async(void *to, uint32_t value, size_t count, void *stream) { return set("cuMemsetD32Async", to, value, count, stream); }
CUDA int cuMemsetD8_v2(void *to, uint8_t value, size_t count) {
    int code = now("cuMemsetD8");
    return code ? code : set("cuMemsetD8", to, value, count, nullptr);
}
CUDA int cuMemsetD32_v2(void *to, uint32_t value, size_t count) {
    int code = now("cuMemsetD32");
    return code ? code : set("cuMemsetD32", to, value, count, nullptr);
}

// Streams and events.

CUDA int cuStreamCreateWithPriority(void **handle, unsigned flags, int) {
    if (int code = no_context("cuStreamCreate")) return code;
    Lock lock(state);
    auto stream = std::make_unique<Stream>();
    stream->flags = flags;
    return *handle = streams.add(std::move(stream)), success;
}
CUDA int cuStreamCreate(void **handle, unsigned flags) { return cuStreamCreateWithPriority(handle, flags, 0); }
CUDA int cuStreamDestroy_v2(void *handle) {
    Lock lock(state);
    Stream *stream = streams.find(handle);
    if (!stream) return refuse(invalid_handle, "cuStreamDestroy: a stream that does not exist");
    if (stream->capture) return spoil(*stream->capture, capture_unsupported, "cuStreamDestroy");
    return streams.live.erase(handle), success;
}
CUDA int cuStreamSynchronize(void *handle) {
    if (!handle) return synchronize("cuStreamSynchronize", nullptr, "stream");
    return synchronize("cuStreamSynchronize", handle, "stream");
}
CUDA int cuStreamQuery(void *handle) { return handle ? outside_of_capture("cuStreamQuery", handle) : success; }
CUDA int cuStreamGetCtx(void *, void **context) { return *context = &context_handle, success; }
CUDA int cuStreamWaitEvent(void *handle, void *event_handle, unsigned) {
    Lock lock(state);
    Stream *stream = find_stream(handle);
    Event *event = events.find(event_handle);
    if (!stream || !event) return refuse(invalid_handle, "cuStreamWaitEvent: a stream or an event that does not exist");
    if (!event->capture) {
        if (stream->capture && event->recorded)
            return spoil(*stream->capture, capture_isolation, "cuStreamWaitEvent for work that is not in the graph");
        return success;
    }
    if (stream->capture && stream->capture != event->capture)
        return spoil(*stream->capture, capture_merge, "cuStreamWaitEvent for work of another graph");
    if (std::find(captures.begin(), captures.end(), event->capture) == captures.end())
        return refuse(invalid_value, "cuStreamWaitEvent for work of a graph that is complete");
    Capture &capture = *event->capture;
    if (stream == capture.origin) {
        capture.ahead.erase(event->stream);
    } else {
        stream->capture = event->capture;
        capture.joined.insert(stream);
        capture.ahead.insert(stream);
        if (event->stream != capture.origin) capture.ahead.erase(event->stream);
    }
    return success;
}
CUDA int cuLaunchHostFunc(void *stream, void (*function)(void *), void *argument) {
    return submit(stream, Node::host, "host function", [=] { function(argument); });
}
CUDA int cuEventCreate(void **handle, unsigned flags) {
    if (int code = no_context("cuEventCreate")) return code;
    Lock lock(state);
    auto event = std::make_unique<Event>();
    event->flags = flags;
    return *handle = events.add(std::move(event)), success;
}
CUDA int cuEventDestroy_v2(void *handle) {
    Lock lock(state);
    return events.live.erase(handle) ? success : refuse(invalid_handle, "cuEventDestroy: an event that does not exist");
}
CUDA int cuEventRecord(void *handle, void *stream_handle) {
    Lock lock(state);
    Stream *stream = find_stream(stream_handle);
    Event *event = events.find(handle);
    if (!stream || !event) return refuse(invalid_handle, "cuEventRecord: a stream or an event that does not exist");
    if (stream->capture && stream->capture->spoiled) return capture_invalidated;
    event->recorded = true;
    event->time = std::chrono::steady_clock::now();
    event->capture = stream->capture;
    event->stream = stream;
    return success;
}
CUDA int cuEventSynchronize(void *handle) {
    Lock lock(state);
    Event *event = events.find(handle);
    if (!event) return refuse(invalid_handle, "cuEventSynchronize: an event that does not exist");
    if (event->capture) {
        event->capture->spoiled = true;
        return refuse(captured_event, "cuEventSynchronize of an event that was recorded into a graph");
    }
    check_guards("cuEventSynchronize");
    return log("sync event"), success;
}
CUDA int cuEventQuery(void *handle) {
    Lock lock(state);
    Event *event = events.find(handle);
    if (!event) return refuse(invalid_handle, "cuEventQuery: an event that does not exist");
    return event->capture ? refuse(captured_event, "cuEventQuery of an event that was recorded into a graph") : success;
}
CUDA int cuEventElapsedTime_v2(float *milliseconds, void *from_handle, void *to_handle) {
    Lock lock(state);
    Event *from = events.find(from_handle), *to = events.find(to_handle);
    if (!from || !to || !from->recorded || !to->recorded || (from->flags | to->flags) & 2)
        return refuse(invalid_handle, "cuEventElapsedTime of events without times");
    if (from->capture || to->capture) return captured_event;
    *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
    return success;
}
CUDA int cuEventElapsedTime(float *milliseconds, void *from, void *to) { return cuEventElapsedTime_v2(milliseconds, from, to); }

// Graphs.

CUDA int cuStreamBeginCapture_v2(void *handle, int mode) {
    if (int code = no_context("cuStreamBeginCapture")) return code;
    static uint64_t number;
    Lock lock(state);
    Stream *stream = find_stream(handle);
    if (!stream) return refuse(invalid_handle, "cuStreamBeginCapture: a stream that does not exist");
    if (stream == &legacy) return refuse(capture_unsupported, "cuStreamBeginCapture of the legacy stream");
    if (stream->capture) return spoil(*stream->capture, illegal_state, "cuStreamBeginCapture");
    auto capture = std::make_shared<Capture>();
    capture->mode = mode;
    capture->thread = std::this_thread::get_id();
    capture->origin = stream;
    capture->number = ++number;
    if (spoiled_by_order(number)) {
        capture->spoiled = true;
        refuse(capture_invalidated, "recording %llu is spoiled, as POINTWISE_EMULATOR_SPOILED says", (unsigned long long)number);
    }
    stream->capture = capture;
    captures.push_back(capture);
    return log("capture begin"), success;
}
CUDA int cuStreamEndCapture(void *handle, void **graph) {
    Lock lock(state);
    *graph = nullptr;
    Stream *stream = find_stream(handle);
    if (!stream) return refuse(invalid_handle, "cuStreamEndCapture: a stream that does not exist");
    std::shared_ptr<Capture> capture = stream->capture;
    if (!capture) return refuse(illegal_state, "cuStreamEndCapture of a stream that records nothing");
    if (stream != capture->origin) return spoil(*capture, capture_unmatched, "cuStreamEndCapture of another stream");
    if (capture->mode != 2 && capture->thread != std::this_thread::get_id())
        return refuse(capture_wrong_thread, "cuStreamEndCapture by another thread");
    forget(capture);
    if (capture->spoiled) return log("capture end spoiled"), capture_invalidated;
    if (!capture->ahead.empty()) return refuse(capture_unjoined, "cuStreamEndCapture: the stream does not wait for work of others");
    auto made = std::make_unique<Graph>();
    made->nodes = std::move(capture->nodes);
    log("capture end nodes=%zu", made->nodes.size());
    return *graph = graphs.add(std::move(made)), success;
}
CUDA int cuStreamIsCapturing(void *handle, int *status) {
    Lock lock(state);
    Stream *stream = find_stream(handle);
    if (!stream) return refuse(invalid_handle, "cuStreamIsCapturing: a stream that does not exist");
    return *status = capture_status(stream), success;
}
CUDA int cuStreamGetCaptureInfo_v3(void *handle, int *status, uint64_t *id, void **graph, void **dependencies, void **edges, size_t *count) {
    Lock lock(state);
    Stream *stream = find_stream(handle);
    if (!stream) return refuse(invalid_handle, "cuStreamGetCaptureInfo: a stream that does not exist");
    *status = capture_status(stream);
    if (id && stream->capture) *id = stream->capture->number;
    for (void **unknown : {graph, dependencies, edges})
        if (unknown) *unknown = nullptr;
    if (count) *count = 0;
    return success;
}
CUDA int cuThreadExchangeStreamCaptureMode(int *mode) { return *mode = 0, success; }
CUDA int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
    Lock lock(state);
    Graph *from = graphs.find(graph);
    if (!from) return refuse(invalid_value, "cuGraphInstantiate: a graph that does not exist");
    return *executable = executables.add(std::make_unique<Graph>(*from)), success;
}
CUDA int cuGraphInstantiate_v2(void **executable, void *graph, void *, char *, size_t) { return cuGraphInstantiateWithFlags(executable, graph, 0); }
CUDA int cuGraphUpload(void *executable, void *) {
    Lock lock(state);
    return executables.find(executable) ? success : refuse(invalid_value, "cuGraphUpload: a graph that does not exist");
}
CUDA int cuGraphLaunch(void *handle, void *stream) {
    Graph *executable;
    {
        Lock lock(state);
        executable = executables.find(handle);
    }
    if (!executable) return refuse(invalid_value, "cuGraphLaunch: a graph that does not exist");
    return submit(stream, Node::graph, "graph launch nodes=" + std::to_string(executable->nodes.size()), [executable] {
        for (const Recorded &node : executable->nodes) node.work();
    });
}
CUDA int cuGraphExecDestroy(void *handle) {
    Lock lock(state);
    return executables.live.erase(handle) ? success : refuse(invalid_value, "cuGraphExecDestroy: a graph that does not exist");
}
CUDA int cuGraphDestroy(void *handle) {
    Lock lock(state);
    return graphs.live.erase(handle) ? success : refuse(invalid_value, "cuGraphDestroy: a graph that does not exist");
}
CUDA int cuGraphGetNodes(void *handle, void **nodes, size_t *count) {
    Lock lock(state);
    Graph *graph = graphs.find(handle);
    if (!graph) return refuse(invalid_value, "cuGraphGetNodes: a graph that does not exist");
    if (nodes)
        for (size_t i = 0; i < std::min(*count, graph->nodes.size()); i++) nodes[i] = &graph->nodes[i];
    return *count = graph->nodes.size(), success;
}
CUDA int cuGraphNodeGetType(void *node, int *type) { return *type = int(static_cast<Recorded *>(node)->kind), success; }

// Modules and functions. An image is examined as the driver does; whatever it holds, the functions are the kernels that the emulator
// was built with.

CUDA int cuModuleLoadData(void **handle, const void *image) {
    if (int code = no_context("cuModuleLoadData")) return code;
    if (int code = outside_of_capture("cuModuleLoadData", nullptr)) return code;
    if (!image) return refuse(invalid_value, "cuModuleLoadData: no image");
    Code found;
    if (int code = examine(image, &found)) return code;
    load_kernels();
    log("module load %s_%u", found.is_ptx ? "compute" : "sm", found.architecture);
    Lock lock(state);
    auto module = std::make_unique<Module>();
    module->binary = found.is_ptx ? architecture() : found.architecture;
    module->ptx = found.architecture;
    return *handle = modules.add(std::move(module)), success;
}
CUDA int cuModuleLoadDataEx(void **module, const void *image, unsigned, void *, void *) { return cuModuleLoadData(module, image); }
CUDA int cuModuleLoad(void **module, const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) return refuse(301, "cuModuleLoad: %s cannot be read", path); // CUDA_ERROR_FILE_NOT_FOUND
    std::vector<char> image;
    char part[4096];
    for (size_t got; (got = fread(part, 1, sizeof part, file)) > 0;) image.insert(image.end(), part, part + got);
    fclose(file);
    image.push_back(0); // Behind PTX.
    return cuModuleLoadData(module, image.data());
}
CUDA int cuModuleUnload(void *handle) {
    if (int code = no_context("cuModuleUnload")) return code;
    if (int code = outside_of_capture("cuModuleUnload", nullptr)) return code;
    Lock lock(state);
    Module *module = modules.find(handle);
    if (!module) return refuse(invalid_handle, "cuModuleUnload: a module that does not exist");
    for (auto at = functions.live.begin(); at != functions.live.end();)
        at = at->second->module == module ? functions.live.erase(at) : std::next(at);
    return modules.live.erase(handle), success;
}
CUDA int cuModuleGetFunction(void **function, void *handle, const char *name) {
    Lock lock(state);
    Module *module = modules.find(handle);
    if (!module) return refuse(invalid_handle, "cuModuleGetFunction: a module that does not exist");
    auto at = kernels().find(name);
    if (at == kernels().end()) return refuse(not_found, "the emulator was built without the kernel %s", name);
    return *function = functions.add(std::make_unique<Function>(Function{module, at->second})), success;
}
CUDA int cuFuncGetAttribute(int *value, int attribute, void *handle) {
    Lock lock(state);
    const Kernel *kernel = find_kernel("cuFuncGetAttribute", handle);
    if (!kernel) return invalid_handle;
    const Module *module = functions.find(handle)->module;
    switch (attribute) {
    case 0: *value = kernel->max_threads; break;
    case 4: *value = 32; break; // Registers of a thread.
    case 5: *value = module->ptx; break;
    case 6: *value = module->binary; break;
    case 8: *value = std::max(kernel->max_dynamic_shared, 48u << 10); break;
    default: *value = 0;
    }
    return success;
}
CUDA int cuFuncSetAttribute(void *handle, int attribute, int value) {
    Kernel *kernel = find_kernel("cuFuncSetAttribute", handle);
    if (!kernel) return invalid_handle;
    if (attribute == 8) {
        if (value < 0 || value > 227 << 10) return refuse(invalid_value, "%d bytes of dynamic shared memory", value);
        kernel->max_dynamic_shared = value;
    }
    return success;
}
CUDA int cuFuncSetCacheConfig(void *, int) { return success; }
CUDA int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *, int threads, size_t) {
    return *blocks = std::min(32, 2048 / std::max(threads, 1)), success;
}
CUDA int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, void *function, int threads, size_t shared, unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared);
}
CUDA int cuOccupancyMaxPotentialBlockSize(int *grid, int *block, void *function, void *, size_t, int limit) {
    const Kernel *kernel = find_kernel("cuOccupancyMaxPotentialBlockSize", function);
    if (!kernel) return invalid_handle;
    int most = kernel->max_threads;
    *block = limit > 0 ? std::min(limit, most) : most;
    return *grid = 132 * (2048 / *block), success;
}
CUDA int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                        void *stream, void **arguments, void **extra) {
    return launch(function, Index(gx, gy, gz), Index(bx, by, bz), shared, stream, arguments, extra);
}

struct LaunchConfig {
    unsigned gx, gy, gz, bx, by, bz, shared;
    void *stream;
    void *attributes;
    unsigned count;
};
CUDA int cuLaunchKernelEx(const LaunchConfig *config, void *function, void **arguments, void **extra) {
    return cuLaunchKernel(function, config->gx, config->gy, config->gz, config->bx, config->by, config->bz, config->shared, config->stream,
                          arguments, extra);
}
