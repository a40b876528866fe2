// What kernels and the driver share: the thread that runs, barriers, exchanges within a warp, and the table of kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <tuple>
#include <type_traits>

namespace emulator {

struct Index {
    unsigned x = 1, y = 1, z = 1;
    Index() = default;
    Index(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// A thread of a block, as a kernel sees it.
struct Thread {
    Index thread, block, block_dim, grid_dim;
};

#pragma GCC visibility push(default)

// The thread of a block that this thread of the host runs now.
extern __thread Thread *current __attribute__((tls_model("initial-exec")));

// How the lanes of a warp exchange what they bring.
enum class Exchange { value, ballot, wait };

// Waits for all threads of the block. `line` tells barriers apart; gives how many threads brought a predicate that is not 0.
unsigned barrier(int line, int predicate);

// Waits for the lanes of the mask. `source` is the lane whose value is asked for; gives the value or the ballot.
uint64_t exchange(Exchange kind, unsigned mask, uint64_t value, unsigned source, int line);


void *dynamic_shared();

[[noreturn]] void trap(const char *what, int line);

// A kernel: its arguments are copied at the launch, then it is called once for each thread.
struct Kernel {
    const char *name;
    unsigned max_threads;
    std::shared_ptr<void> (*copy)(void **arguments);
    void (*call)(const void *arguments);
    // Writes the arguments that are pointers; gives their number.
    size_t (*pointers)(const void *arguments, const void **pointers);
    unsigned max_dynamic_shared;
};

void add_kernel(Kernel *kernel);

#pragma GCC visibility pop

constexpr size_t max_arguments = 64;

template <auto function> struct Launch;

template <class... A, void (*function)(A...)> struct Launch<function> {
    static_assert(sizeof...(A) <= max_arguments);
    using Arguments = std::tuple<A...>;

    template <size_t... i> static std::shared_ptr<void> copy_each(void **arguments, std::index_sequence<i...>) {
        return std::shared_ptr<void>(std::make_shared<Arguments>(*static_cast<std::remove_reference_t<A> *>(arguments[i])...));
    }

    static std::shared_ptr<void> copy(void **arguments) { return copy_each(arguments, std::index_sequence_for<A...>()); }

    static void call(const void *arguments) { std::apply(function, *static_cast<const Arguments *>(arguments)); }

    static size_t pointers(const void *arguments, const void **pointers) {
        size_t count = 0;
        auto add = [&](const auto &argument) {
            if constexpr (std::is_pointer_v<std::decay_t<decltype(argument)>>) pointers[count++] = argument;
        };
        std::apply([&](const auto &...argument) { (add(argument), ...); }, *static_cast<const Arguments *>(arguments));
        return count;
    }
};

struct Register {
    Kernel kernel;
    template <class L> Register(const char *name, unsigned max_threads, L) : kernel{name, max_threads, L::copy, L::call, L::pointers, 0} {
        add_kernel(&kernel);
    }
};

} // namespace emulator
