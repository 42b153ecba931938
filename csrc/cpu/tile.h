// The micro-kernel: a register tile of kRows x NV vectors, the only loop that multiplies.
#pragma once

#include "simd.h"

namespace hifigan {
namespace HIFIGAN_ISA {

template <int NV>
struct Tile {
  Vec at[kRows][NV];

  void zero() {
    for (auto &row : at)
      for (auto &v : row) v = Vec{};
  }
  // Partial sums are added to a fresh sum, not continued: less rounding for the same work.
  void add(const float *p, int64_t rows = kRows) {
    for (int r = 0; r < kRows; ++r)
      for (int j = 0; r < rows && j < NV; ++j) at[r][j] += load(p + (r * NV + j) * kWidth);
  }
  void write(float *p, int64_t rows = kRows) const {
    for (int r = 0; r < kRows; ++r)
      for (int j = 0; r < rows && j < NV; ++j) store(p + (r * NV + j) * kWidth, at[r][j]);
  }
};

// tile[r] += a[r][k * a_step] * b[k * b_step ... + NV vectors], k = 0 ... count - 1
template <int NV>
inline __attribute__((always_inline)) void multiply_add(Tile<NV> &tile, const float *const (&a)[kRows],
                                                        int64_t a_step, const float *b, int64_t b_step,
                                                        int64_t count) {
  for (int64_t k = 0, i = 0; k < count; ++k, i += a_step, b += b_step) {
    Vec column[NV];
    for (int j = 0; j < NV; ++j) column[j] = load(b + j * kWidth);
    for (int r = 0; r < kRows; ++r)
      for (int j = 0; j < NV; ++j) tile.at[r][j] += a[r][i] * column[j];
  }
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
