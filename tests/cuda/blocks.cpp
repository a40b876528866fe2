// Runs the threads of a block, one after the other on one thread of the host.
//
// Each thread has a stack of its own only while it waits: a fiber calls the kernel for one thread after the other, until one of them
// waits at a barrier; then the next fiber takes the threads that have not begun. A kernel without barriers needs one fiber.

#include "blocks.h"
#include "emulator.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <link.h>
#include <memory>
#include <sys/mman.h>
#include <vector>

// Keeps the registers that a call must keep, stores the stack's pointer at the first argument, goes on with the second.
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch, . - emulator_switch
)");
extern "C" void emulator_switch(void **keep, void *go);
extern "C" void *__tls_get_addr(size_t *module_and_offset);

namespace emulator {

__thread Thread *current;

namespace {

constexpr unsigned max_threads = 1024;
constexpr unsigned warp = 32;
constexpr size_t stack_bytes = 64 << 10, stack_guard = 4096;
constexpr size_t shared_limit = 256 << 10, shared_guard = 64 << 10;

enum class State { waiting_to_begin, ready, at_barrier, at_exchange, done };

struct Fiber {
    Thread thread;
    unsigned number; // Of its thread in the block.
    void *stack;
};

// A thread of the block.
struct Work {
    State state;
    Fiber *fiber;
    int line, predicate;
    unsigned counted; // What the barrier gave.
    Exchange kind;
    unsigned mask, source;
    uint64_t value, result;
};

struct Block {
    const Kernel *kernel = nullptr;
    const void *arguments;
    Index block, grid_dim, block_dim;
    unsigned threads, begun, done;
    bool reversed; // POINTWISE_EMULATOR_ORDER=reverse
    bool waited; // At a barrier or an exchange.
    unsigned exchanging; // Threads that wait at an exchange.
    Work work[max_threads];
    std::vector<Fiber *> fibers, idle;
    std::vector<unsigned> ready;
    void *scheduler;
    Fiber *running;
    char *stacks = nullptr;
    char *shared = nullptr;
    void *dynamic_shared;

    ~Block() {
        for (Fiber *fiber : fibers) delete fiber;
        if (stacks) munmap(stacks, max_threads * stack_bytes);
        if (shared) munmap(shared, shared_limit + shared_guard);
    }
};

// What this thread of the host runs: made at its first launch, for the rest of its life.
__thread Block *own __attribute__((tls_model("initial-exec")));

void make_own() {
    static thread_local std::unique_ptr<Block> owner;
    if (!owner) owner = std::make_unique<Block>();
    own = owner.get();
}

Index unravel(unsigned number, Index dim) {
    if (dim.y * dim.z == 1) return Index(number, 0, 0);
    return Index(number % dim.x, number / dim.x % dim.y, number / dim.x / dim.y);
}

// Gives the lanes that wait what they asked for, once all lanes of the mask are there that have not ended.
void resolve(unsigned first) {
    unsigned waiting = 0, there = 0, mask = 0;
    unsigned lanes = std::min(warp, own->threads - first);
    for (unsigned lane = 0; lane < lanes; lane++) {
        State state = own->work[first + lane].state;
        if (state == State::at_exchange) waiting |= 1u << lane;
        if (state != State::done) there |= 1u << lane;
    }
    for (unsigned lane = 0; lane < lanes; lane++) {
        Work &work = own->work[first + lane];
        if (!(waiting >> lane & 1) || work.state != State::at_exchange) continue;
        mask = work.mask & there;
        if ((mask & waiting) != mask) continue;
        for (unsigned other = 0; other < lanes; other++) {
            const Work &w = own->work[first + other];
            if (mask >> other & 1 && (w.kind != work.kind || w.mask != work.mask))
                stop("%s: lanes of a warp meet at different exchanges, lines %d and %d", place().c_str(), work.line, w.line);
        }
        uint64_t ballot = 0;
        for (unsigned other = 0; other < lanes; other++)
            if (mask >> other & 1 && own->work[first + other].value) ballot |= 1u << other;
        for (unsigned other = 0; other < lanes; other++) {
            if (!(mask >> other & 1)) continue;
            Work &w = own->work[first + other];
            if (w.kind == Exchange::ballot) w.result = ballot;
            // The value of a lane that does not take part is undefined: a NaN.
            if (w.kind == Exchange::value) w.result = mask >> w.source & 1 ? own->work[first + w.source].value : ~uint64_t(0);
        }
        for (unsigned other = 0; other < lanes; other++) {
            if (!(mask >> other & 1)) continue;
            own->work[first + other].state = State::ready;
            own->ready.push_back(first + other);
            own->exchanging--;
        }
        waiting &= ~mask;
    }
}

void run_fiber() {
    Fiber *self = own->running;
    for (;;) {
        while (own->begun < own->threads) {
            unsigned number = own->begun++;
            if (own->reversed) number = own->threads - 1 - number;
            self->number = number;
            self->thread.thread = unravel(number, own->block_dim);
            own->work[number].fiber = self;
            own->work[number].state = State::ready;
            own->kernel->call(own->arguments);
            own->work[self->number].state = State::done;
            own->done++;
            if (own->exchanging) resolve(self->number / warp * warp);
        }
        own->idle.push_back(self);
        emulator_switch(&self->stack, own->scheduler);
    }
}

void *stack_of(unsigned number) {
    if (!own->stacks) {
        void *stacks = mmap(nullptr, max_threads * stack_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
        if (stacks == MAP_FAILED) stop("the emulator cannot have the stacks of a block's threads");
        own->stacks = static_cast<char *>(stacks);
    }
    char *stack = own->stacks + number * stack_bytes;
    mprotect(stack, stack_guard, PROT_NONE);
    // Tops at different places of their pages, or all would share one set of the cache.
    void **top = reinterpret_cast<void **>(stack + stack_bytes - number % 32 * 128);
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(run_fiber);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    return top;
}

void go_on(Fiber *fiber) {
    own->running = fiber;
    current = &fiber->thread;
    emulator_switch(&own->scheduler, fiber->stack);
}

void wait() {
    Fiber *self = own->running;
    own->waited = true;
    emulator_switch(&self->stack, own->scheduler);
}

// All threads that have not ended wait: at one barrier, or for each other forever.
void release_barrier() {
    int line = 0;
    unsigned counted = 0;
    for (unsigned i = 0; i < own->threads; i++) {
        const Work &work = own->work[i];
        current = work.fiber ? &work.fiber->thread : current;
        if (work.state == State::at_exchange)
            stop("%s waits at line %d for lanes of its warp that never come", place().c_str(), work.line);
        if (work.state != State::at_barrier) continue;
        if (own->done) stop("%s waits at the barrier at line %d, but %u threads of the block have ended", place().c_str(), work.line, own->done);
        if (line && line != work.line)
            stop("%s waits at the barrier at line %d, others at line %d", place().c_str(), work.line, line);
        line = work.line;
        counted += work.predicate != 0;
    }
    for (unsigned i = 0; i < own->threads; i++) {
        unsigned number = own->reversed ? own->threads - 1 - i : i;
        own->work[number].counted = counted;
        own->work[number].state = State::ready;
        own->ready.push_back(number);
    }
}

void run_block() {
    own->begun = own->done = own->exchanging = 0;
    for (unsigned i = 0; i < own->threads; i++) own->work[i].state = State::waiting_to_begin, own->work[i].fiber = nullptr;
    std::vector<unsigned> batch;
    for (;;) {
        if (!own->ready.empty()) {
            batch.swap(own->ready);
            for (unsigned number : batch) go_on(own->work[number].fiber);
            batch.clear();
        } else if (own->begun < own->threads) {
            if (own->idle.empty()) {
                Fiber *fiber = new Fiber;
                fiber->stack = stack_of(own->fibers.size());
                own->fibers.push_back(fiber);
                own->idle.push_back(fiber);
            }
            Fiber *fiber = own->idle.back();
            own->idle.pop_back();
            fiber->thread.block = own->block;
            fiber->thread.block_dim = own->block_dim;
            fiber->thread.grid_dim = own->grid_dim;
            go_on(fiber);
        } else if (own->done == own->threads) {
            return;
        } else {
            release_barrier();
        }
    }
}

// Variables in shared memory are thread-local variables of the kernels' library: this thread's copies of them, and their size.
std::pair<void *, size_t> static_shared(const void *of_kernels) {
    struct Search {
        uintptr_t address;
        size_t module, bytes;
    } search{reinterpret_cast<uintptr_t>(of_kernels), 0, 0};
    dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *argument) {
            Search &search = *static_cast<Search *>(argument);
            bool here = false;
            size_t bytes = 0;
            for (int i = 0; i < info->dlpi_phnum; i++) {
                const auto &header = info->dlpi_phdr[i];
                if (header.p_type == PT_LOAD && search.address - (info->dlpi_addr + header.p_vaddr) < header.p_memsz) here = true;
                if (header.p_type == PT_TLS) bytes = header.p_memsz;
            }
            if (here) search.module = info->dlpi_tls_modid, search.bytes = bytes;
            return int(here);
        },
        &search);
    if (!search.bytes) return {nullptr, 0};
    size_t start[2] = {search.module, 0};
    return {__tls_get_addr(start), search.bytes};
}

// Dynamic shared memory ends where memory that cannot be touched begins.
char *shared_before_guard(size_t bytes) {
    if (!own->shared) {
        void *range = mmap(nullptr, shared_limit + shared_guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (range == MAP_FAILED) stop("the emulator cannot have shared memory");
        own->shared = static_cast<char *>(range);
        mprotect(own->shared + shared_limit, shared_guard, PROT_NONE);
    }
    return own->shared + shared_limit - (bytes + 15) / 16 * 16;
}

} // namespace

unsigned barrier(int line, int predicate) {
    if (own->threads == 1) return predicate != 0;
    Work &work = own->work[own->running->number];
    work.line = line;
    work.predicate = predicate;
    work.state = State::at_barrier;
    wait();
    return work.counted;
}

uint64_t exchange(Exchange kind, unsigned mask, uint64_t value, unsigned source, int line) {
    unsigned number = own->running->number, lane = number % warp;
    if (!(mask >> lane & 1)) stop("%s is not in the mask %#x of its exchange at line %d", place().c_str(), mask, line);
    Work &work = own->work[number];
    work.kind = kind;
    work.mask = mask;
    work.value = value;
    work.source = source;
    work.line = line;
    work.state = State::at_exchange;
    own->exchanging++;
    resolve(number / warp * warp);
    wait();
    return work.result;
}


void *dynamic_shared() { return own->dynamic_shared; }

void trap(const char *what, int line) { stop("%s: %s at line %d", place().c_str(), what, line); }

void run(const Kernel *kernel, const void *arguments, Index grid, Index block_dim, unsigned shared_bytes) {
    make_own();
    const char *order = getenv("POINTWISE_EMULATOR_ORDER");
    own->reversed = order && !strcmp(order, "reverse");
    own->kernel = kernel;
    own->arguments = arguments;
    own->grid_dim = grid;
    own->block_dim = block_dim;
    own->threads = block_dim.x * block_dim.y * block_dim.z;
    own->dynamic_shared = shared_before_guard(shared_bytes);
    auto [variables, variables_bytes] = static_shared(kernel);
    Thread *before = current;
    size_t blocks = size_t(grid.x) * grid.y * grid.z;
    for (size_t i = 0; i < blocks; i++) {
        size_t number = own->reversed ? blocks - 1 - i : i;
        own->block = Index(number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y);
        // Only kernels with barriers use shared memory.
        if (i == 0 || own->waited) memset(variables, 0xff, variables_bytes);
        own->waited = false;
        memset(own->dynamic_shared, 0xff, shared_bytes);
        run_block();
    }
    own->kernel = nullptr;
    current = before;
}

std::string place() {
    if (!own || !own->kernel || !current) return "";
    char text[256];
    const Index &b = current->block, &t = current->thread;
    snprintf(text, sizeof text, "%s, block (%u, %u, %u), thread (%u, %u, %u)", own->kernel->name, b.x, b.y, b.z, t.x, t.y, t.z);
    return text;
}

bool in_stack_guard(const void *address) {
    if (!own || !own->stacks) return false;
    size_t offset = static_cast<const char *>(address) - own->stacks;
    return offset < max_threads * stack_bytes && offset % stack_bytes < stack_guard;
}

} // namespace emulator
