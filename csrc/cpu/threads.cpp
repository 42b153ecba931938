#include "threads.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#include <pthread.h>
#endif

namespace hifigan {
namespace {

struct Region {
  int64_t count;
  Task task;
  void *context;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;

  void work() {
    try {
      for (int64_t i = next++; i < count && !failed; i = next++) task(context, i);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  }
};

using Parallel = void (*)(void (*)(void *), void *, unsigned, unsigned);

#if defined(__unix__) || defined(__APPLE__)
std::atomic<bool> forked{false};
Parallel pool =
    nullptr;  // GNU OpenMP's entry point, if the process has loaded it (PyTorch's Linux builds do)

void find_pool() {
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
  pool = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
}

// Its threads do not survive a fork: waiting for them would hang.
Parallel shared_pool() { return forked ? nullptr : pool; }
#else
void find_pool() {}
Parallel shared_pool() { return nullptr; }
#endif

}  // namespace

void prepare_threads() { find_pool(); }

void parallel(int threads, int64_t count, Task task, void *context) {
  if (count <= 0) return;
  Region region{count, task, context};
  const auto wanted = static_cast<unsigned>(std::min<int64_t>(std::clamp(threads, 1, kMostThreads), count));
  if (wanted <= 1) {
    region.work();
  } else if (const Parallel shared = shared_pool()) {
    shared([](void *r) { static_cast<Region *>(r)->work(); }, &region, wanted, 0);
  } else {
    std::vector<std::thread> helpers;
    helpers.reserve(wanted - 1);  // before there is one to be joined
    try {
      for (unsigned i = 1; i < wanted; ++i) helpers.emplace_back([&] { region.work(); });
    } catch (...) {  // no more threads to be had: those that started share the work
    }
    region.work();
    for (auto &helper : helpers) helper.join();
  }
  if (region.failure) std::rethrow_exception(region.failure);
}

}  // namespace hifigan
