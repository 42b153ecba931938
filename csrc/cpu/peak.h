// The machine's peak: the micro-kernel's multiplications and additions, without its memory.
#pragma once

#include "tile.h"

namespace hifigan {
namespace HIFIGAN_ISA {

constexpr int kPeakChains = 10;  // independent, more than any latency needs, fewer than the registers

inline double multiply_add_peak(int64_t rounds, int threads) {
  parallel_for(threads, threads, [&](int64_t) {
    Vec at[kPeakChains], factor = Vec{} + 0.999f;
#pragma GCC unroll 16
    for (int r = 0; r < kPeakChains; ++r) at[r] = Vec{} + static_cast<float>(r);
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
      for (int r = 0; r < kPeakChains; ++r) at[r] = at[r] * factor + factor;
    }
    Vec total = {};
#pragma GCC unroll 16
    for (int r = 0; r < kPeakChains; ++r) total += at[r];
    volatile float used = sum(total);
    (void)used;
  });
  return 2.0 * kWidth * kPeakChains * static_cast<double>(rounds) * threads;
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
