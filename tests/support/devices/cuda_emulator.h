// CUDA C on the CPU, as much of it as this project's kernels use: g++ compiles the unchanged source of a
// kernel after this file, and `emulate` runs it block by block.
//
// The threads of a block are coroutines. Each runs until it returns or waits in __syncthreads, so every run
// is the same. `backwards` runs the threads in the opposite order: if a __syncthreads is missing, the two
// runs differ from each other or from the reference.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __grid_constant__
#define __launch_bounds__(threads)
#define __shared__ static  // blocks run one after the other, so one copy is enough

using std::max;
using std::min;

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
constexpr size_t STACK = 64 * 1024;
struct Thread {
    ucontext_t context;
    std::vector<char> stack;
    Index index;
    bool done;
};
static ucontext_t home;
static std::vector<Thread> threads;
static Thread* running;
static std::function<void()> body;

inline void begin() {
    body();
    running->done = true;
}

inline void resume(Thread& thread) {
    running = &thread;
    threadIdx = thread.index;
    swapcontext(&home, &thread.context);
}

// Run one block: resume all threads up to their next __syncthreads, until all have returned.
inline void run_block(bool backwards) {
    for (auto& thread : threads) {
        thread.done = false;
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = STACK;
        thread.context.uc_link = &home;
        makecontext(&thread.context, begin, 0);
    }
    const size_t count = threads.size();
    for (size_t done = 0; done < count;) {
        done = 0;
        for (size_t i = 0; i < count; ++i) resume(threads[backwards ? count - 1 - i : i]);
        for (auto& thread : threads) done += thread.done;
        if (done && done < count) {
            std::fprintf(stderr, "some threads wait in __syncthreads, but others have returned\n");
            std::abort();
        }
    }
}
}  // namespace emulator

inline void __syncthreads() { swapcontext(&emulator::running->context, &emulator::home); }

inline unsigned atomicAdd(unsigned* at, unsigned value) {
    const unsigned before = *at;
    *at += value;
    return before;
}

inline unsigned atomicAnd(unsigned* at, unsigned value) {
    const unsigned before = *at;
    *at &= value;
    return before;
}

inline unsigned atomicOr(unsigned* at, unsigned value) {
    const unsigned before = *at;
    *at |= value;
    return before;
}

inline int __ffs(unsigned value) { return __builtin_ffs((int)value); }

// The bits of a float32 as float16, rounded to nearest even.
inline unsigned short half_bits(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    const unsigned sign = bits >> 16 & 0x8000;
    const float size = std::fabs(value);
    if (size != size) return 0x7fff;
    if (size >= 65520.0f) return sign | 0x7c00;
    if (size == 0) return sign;
    int exponent;
    std::frexp(size, &exponent);  // size in [0.5, 1) * 2^exponent
    const int step = std::max(exponent - 11, -24);  // the value of the last bit is 2^step
    const unsigned units = (unsigned)std::nearbyint(std::ldexp(size, -step));
    return sign | ((step + 24) * 1024 + units);
}

template <class Parameters>
void emulate(void (*kernel)(Parameters), const void* parameters, Index grid, Index block, bool backwards) {
    using namespace emulator;
    body = [=] { kernel(*(const Parameters*)parameters); };
    gridDim = grid;
    blockDim = block;
    threads.resize((size_t)block.x * block.y * block.z);
    for (unsigned i = 0; i < threads.size(); ++i) {
        threads[i].stack.resize(STACK);
        threads[i].index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    }
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                run_block(backwards);
            }
}
