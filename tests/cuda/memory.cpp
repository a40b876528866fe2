// Memory of the device: one large reserved range of addresses, from which allocations are cut and to which they never return.
//
// Each allocation ends at the end of a page, and pages that cannot be touched surround it. What is left of its own pages is filled with a
// pattern that is checked now and then. Freed memory cannot be touched again. So nearly every access outside of an
// allocation stops the program there and then.

#include "emulator.h"

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sys/mman.h>

namespace emulator {
namespace {

constexpr size_t page = 4096;
constexpr size_t alignment = 256; // What CUDA promises, and no more.
constexpr size_t gap = 64 << 10;
// From here on memory begins as zeros, which cost nothing until they are touched.
constexpr size_t large = 32 << 20;
constexpr size_t reserved = size_t(1) << 40;
// As f32 and as bf16 a NaN, so that a read outside shows in the results.
constexpr uint16_t guard = 0xfff5;

struct Allocation {
    uintptr_t pages, end; // The mapped range; the allocation ends less than `alignment` before its end.
    size_t bytes;
};

std::recursive_mutex table;
std::map<uintptr_t, Allocation> live, freed;
std::map<uintptr_t, size_t> pinned;
uintptr_t arena, next;
size_t used;

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

size_t total() {
    static const size_t bytes = [] {
        const char *mebibytes = getenv("POINTWISE_EMULATOR_MEMORY");
        return (mebibytes ? strtoull(mebibytes, nullptr, 10) : 16384) << 20;
    }();
    return bytes;
}

const std::pair<const uintptr_t, Allocation> *find(const std::map<uintptr_t, Allocation> &in, uintptr_t address) {
    auto after = in.upper_bound(address);
    return after == in.begin() ? nullptr : &*std::prev(after);
}

void fill(uintptr_t from, uintptr_t to) {
    for (; from < to; from++) *reinterpret_cast<uint8_t *>(from) = uint8_t(from & 1 ? guard >> 8 : guard);
}

// The first byte of the range that has not kept the pattern, or 0.
uintptr_t damaged(uintptr_t from, uintptr_t to) {
    for (; from < to; from++)
        if (*reinterpret_cast<uint8_t *>(from) != uint8_t(from & 1 ? guard >> 8 : guard)) return from;
    return 0;
}

void check(uintptr_t base, const Allocation &allocation, const char *when) {
    if (uintptr_t at = damaged(allocation.pages, base))
        stop("%s: %zu bytes before an allocation of %zu bytes were overwritten", when, size_t(base - at), allocation.bytes);
    if (uintptr_t at = damaged(base + allocation.bytes, allocation.end))
        stop("%s: the byte %zu of an allocation of %zu bytes was overwritten", when, size_t(at - base), allocation.bytes);
}

// What is at an address of the arena.
std::string describe(uintptr_t address) {
    char text[160];
    auto in_live = find(live, address), in_freed = find(freed, address);
    if (in_freed && address < in_freed->second.end && (!in_live || in_live->first < in_freed->first)) {
        snprintf(text, sizeof text, "byte %zu of an allocation of %zu bytes that was freed", size_t(address - in_freed->first),
                 in_freed->second.bytes);
        return text;
    }
    auto after = live.upper_bound(address);
    if (after != live.end() && after->second.pages - address < gap / 2) {
        snprintf(text, sizeof text, "%zu bytes before an allocation of %zu bytes", size_t(after->first - address),
                 after->second.bytes);
        return text;
    }
    if (!in_live) return "no allocation";
    snprintf(text, sizeof text, "byte %zu of an allocation of %zu bytes", size_t(address - in_live->first), in_live->second.bytes);
    return text;
}

struct sigaction former[2];

void on_fault(int signal, siginfo_t *info, void *) {
    uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
    std::string where = place();
    if (arena && address >= arena && address < arena + reserved) {
        std::string what = table.try_lock() ? describe(address) : "memory of the device";
        if (where.empty()) where = "the host";
        stop("%s touched %s", where.c_str(), what.c_str());
    }
    if (in_stack_guard(info->si_addr)) stop("%s needs more than the stack of a thread", where.c_str());
    if (!where.empty()) {
        if (!address) stop("%s touched a null or misaligned address", where.c_str());
        stop("%s touched %p, which is not on the device", where.c_str(), info->si_addr);
    }
    // Not ours: it happens again under the handler that was there before.
    sigaction(signal, &former[signal == SIGBUS], nullptr);
}

} // namespace

int allocate(void **address, size_t bytes) {
    std::lock_guard lock(table);
    if (!arena) {
        void *range = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (range == MAP_FAILED) stop("the emulator cannot reserve a range of addresses");
        arena = next = reinterpret_cast<uintptr_t>(range);
    }
    if (bytes == 0) return refuse(invalid_value, "an allocation of 0 bytes");
    size_t length = round_up(bytes, alignment), mapped = round_up(length, page);
    if (used + length > total() || next + gap + mapped + gap > arena + reserved) return out_of_memory;
    Allocation allocation{next + gap, next + gap + mapped, bytes};
    if (mprotect(reinterpret_cast<void *>(allocation.pages), mapped, PROT_READ | PROT_WRITE)) return out_of_memory;
    uintptr_t base = allocation.end - length;
    fill(allocation.pages, base);
    fill(base + bytes, allocation.end);
    if (bytes < large) memset(reinterpret_cast<void *>(base), 0xff, bytes);
    next = allocation.end;
    used += length;
    live.emplace(base, allocation);
    *address = reinterpret_cast<void *>(base);
    log("alloc bytes=%zu", bytes);
    return success;
}

void fill_with_zeros(void *address, size_t bytes) {
    uintptr_t from = reinterpret_cast<uintptr_t>(address), to = from + bytes;
    uintptr_t first = round_up(from, page), last = to / page * page;
    if (bytes < large) {
        memset(address, 0, bytes);
        return;
    }
    // Pages that were given back are zeros when they are touched again.
    memset(address, 0, first - from);
    madvise(reinterpret_cast<void *>(first), last - first, MADV_DONTNEED);
    memset(reinterpret_cast<void *>(last), 0, to - last);
}

static void withdraw(uintptr_t base, const Allocation &allocation) {
    void *pages = reinterpret_cast<void *>(allocation.pages);
    madvise(pages, allocation.end - allocation.pages, MADV_DONTNEED);
    mprotect(pages, allocation.end - allocation.pages, PROT_NONE);
    used -= round_up(allocation.bytes, alignment);
    freed.emplace(base, allocation);
}

int release(void *address, const char *call) {
    std::lock_guard lock(table);
    uintptr_t base = reinterpret_cast<uintptr_t>(address);
    if (!base) return success;
    auto at = live.find(base);
    if (at == live.end()) {
        if (freed.count(base)) return refuse(invalid_value, "%s: an allocation of %zu bytes is freed twice", call, freed[base].bytes);
        return refuse(invalid_value, "%s: %p was not allocated", call, address);
    }
    Allocation allocation = at->second;
    check(base, allocation, call);
    live.erase(at);
    withdraw(base, allocation);
    log("free bytes=%zu", allocation.bytes);
    return success;
}

void release_all() {
    std::lock_guard lock(table);
    for (const auto &[base, allocation] : live) {
        check(base, allocation, "the end of the context");
        withdraw(base, allocation);
    }
    live.clear();
    pinned.clear();
}

void check_guards(const char *when) {
    std::lock_guard lock(table);
    for (const auto &[base, allocation] : live) check(base, allocation, when);
}

void memory_info(size_t *free, size_t *all) {
    std::lock_guard lock(table);
    *all = total();
    *free = total() - used;
}

void remember_host(void *address, size_t bytes) {
    std::lock_guard lock(table);
    pinned[reinterpret_cast<uintptr_t>(address)] = bytes;
}

bool forget_host(void *address) {
    std::lock_guard lock(table);
    return pinned.erase(reinterpret_cast<uintptr_t>(address)) == 1;
}

bool host_range(const void *address, size_t bytes) {
    std::lock_guard lock(table);
    uintptr_t from = reinterpret_cast<uintptr_t>(address);
    auto after = pinned.upper_bound(from);
    if (after == pinned.begin()) return false;
    --after;
    return from + bytes <= after->first + after->second;
}

bool on_device(const void *address, size_t bytes) {
    std::lock_guard lock(table);
    uintptr_t from = reinterpret_cast<uintptr_t>(address);
    auto at = find(live, from);
    return at && from - at->first <= at->second.bytes && bytes <= at->second.bytes - (from - at->first);
}

bool check_range(const char *call, const char *argument, const void *address, size_t bytes) {
    if (on_device(address, bytes)) return true;
    std::lock_guard lock(table);
    uintptr_t from = reinterpret_cast<uintptr_t>(address);
    if (!arena || from < arena || from >= arena + reserved)
        refuse(0, "%s: %s, %zu bytes at %p, is not on the device", call, argument, bytes, address);
    else
        refuse(0, "%s: %s, %zu bytes from %s on, is not within one allocation", call, argument, bytes, describe(from).c_str());
    return false;
}

void install_fault_handler() {
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &former[0]);
    sigaction(SIGBUS, &action, &former[1]);
}

} // namespace emulator
