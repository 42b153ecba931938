// Threads. Compiled once, for every instruction set.
#pragma once

#include <cstdint>

namespace hifigan {

constexpr int kMostThreads = 1024;

using Task = void (*)(void *context, int64_t index);

// Looks for PyTorch's pool, and learns of forks from now on. To be called once, when the module loads.
void prepare_threads();

// Runs task(context, 0 ... count - 1) on up to `threads` threads, in no fixed order: PyTorch's own
// OpenMP pool where one is loaded (no second pool to compete with it), std::thread otherwise.
void parallel(int threads, int64_t count, Task task, void *context);

template <class Body>
void parallel_for(int threads, int64_t count, const Body &body) {
  parallel(
      threads, count, [](void *context, int64_t index) { (*static_cast<const Body *>(context))(index); },
      const_cast<Body *>(&body));
}

}  // namespace hifigan
