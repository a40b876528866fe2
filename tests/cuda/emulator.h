// What the libraries of the emulator share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

// A function that the program calls.
#define CUDA extern "C" __attribute__((visibility("default")))
// A function that the other libraries of the emulator call.
#define SHARED __attribute__((visibility("default")))

namespace emulator {

// CUresult, the values that occur here.
enum Status {
    success = 0,
    invalid_value = 1,
    out_of_memory = 2,
    not_initialized = 3,
    invalid_device = 101,
    invalid_image = 200,
    invalid_context = 201,
    no_binary = 209,
    invalid_ptx = 218,
    invalid_handle = 400,
    illegal_state = 401,
    not_found = 500,
    context_destroyed = 709,
    not_supported = 801,
    capture_unsupported = 900,
    capture_invalidated = 901,
    capture_merge = 902,
    capture_unmatched = 903,
    capture_unjoined = 904,
    capture_isolation = 905,
    capture_implicit = 906,
    captured_event = 907,
    capture_wrong_thread = 908,
};

// CUgraphNodeType.
enum class Node { kernel = 0, copy = 1, set = 2, host = 3, graph = 4 };

// Says on stderr what the program did wrong, in one sentence, and ends it.
[[noreturn]] SHARED void stop(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Says on stderr why a call is refused, in one sentence; gives the code back.
SHARED int refuse(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

// What this thread was told last.
SHARED const char *last_refusal();

// A line of the log, where POINTWISE_EMULATOR_LOG names one.
SHARED void log(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Does the work now, in the order of the calls, or puts it into the graph that the stream records.
SHARED int submit(void *stream, Node kind, std::string line, std::function<void()> work);

// Refuses a call that is not safe while this thread records a graph, or another one does in the global mode, and spoils these graphs;
// `stream` is a stream that the call waits for, or null.
SHARED int outside_of_capture(const char *call, void *stream);

// Waits for the whole device, and says in the log why. That spoils every graph that is being recorded, by whichever thread and in
// whichever mode, and is refused then.
SHARED int synchronize_device(const char *call, const char *why);

// Which context there is: another number after the context was destroyed. Handles of the libraries belong to one.
SHARED uint64_t context_number();

// Whether this many bytes from the address on are in one allocation on the device.
SHARED bool on_device(const void *address, size_t bytes);

// As `on_device`; otherwise says what is wrong with an argument of a call.
SHARED bool check_range(const char *call, const char *argument, const void *address, size_t bytes);

// memory.cpp
enum class Copy { to_device, to_host, on_device, any };
int allocate(void **address, size_t bytes);
void fill_with_zeros(void *address, size_t bytes);
int release(void *address, const char *call);
void release_all();
void check_guards(const char *when);
void memory_info(size_t *free, size_t *total);
void remember_host(void *address, size_t bytes);
bool forget_host(void *address);
bool host_range(const void *address, size_t bytes);
void install_fault_handler();

// blocks.cpp
// The kernel and the thread that run now, for messages; an empty text outside of a kernel.
std::string place();
bool in_stack_guard(const void *address);

} // namespace emulator
