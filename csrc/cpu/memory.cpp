#include "memory.h"

#include <cstdint>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace hifigan {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

struct Buffer {
  float *data = nullptr;
  std::size_t size = 0;
  ~Buffer() { release(); }
  void release() {
    if (data) ::operator delete(data, std::align_val_t(64));
    data = nullptr;
    size = 0;
  }
};

}  // namespace

float *scratch(Scratch purpose, std::size_t floats) {
  static thread_local Buffer buffers[3];
  Buffer &buffer = buffers[static_cast<int>(purpose)];
  if (buffer.size < floats) {
    buffer.release();
    buffer.data = static_cast<float *>(::operator new(floats * sizeof(float), std::align_val_t(64)));
    buffer.size = floats;
    prefer_huge_pages(buffer.data, floats * sizeof(float));
  }
  return buffer.data;
}

void prefer_huge_pages(void *memory, std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto begin = reinterpret_cast<std::uintptr_t>(memory);
  const std::uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const std::uintptr_t last = (begin + bytes) / kHugePage * kHugePage;
  if (first < last) madvise(reinterpret_cast<void *>(first), last - first, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

}  // namespace hifigan
