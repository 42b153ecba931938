// The micro-kernel: a register tile of rows x vectors, the only loop that multiplies matrices. Its
// small loops are unrolled by order: left to itself, GCC keeps tiles in memory between them.
#pragma once

#include "simd.h"

namespace hifigan {
namespace HIFIGAN_ISA {

template <int R, int NV>
struct Tile {
  Vec at[R][NV];

  void zero() {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) at[r][j] = Vec{};
  }
  // Partial sums are added to a fresh sum, not continued: less rounding for the same work.
  void add(const float *p) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) at[r][j] += load(p + (r * NV + j) * kWidth);
  }
  void write(float *p) const {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) store(p + (r * NV + j) * kWidth, at[r][j]);
  }
  // at[r] += a[r * a_row + k * a_step] * b[k * b_step ... + NV vectors], k = 0 ... count - 1
  template <bool Pairs>
  __attribute__((always_inline)) void multiply_add(const float *a, int64_t a_row, int64_t a_step,
                                                   const float *b, int64_t b_step, int64_t count) {
    for (int64_t k = 0; k < count; ++k, a += a_step, b += b_step) {
      Vec column[NV];
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) column[j] = load(b + j * kWidth);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int j = 0; j < NV; ++j)
          at[r][j] = HIFIGAN_ISA::multiply_add<Pairs>(at[r][j], a + r * a_row, column[j]);
    }
  }
};

// One product of matrices: sums[r] (+)= the sum over k < terms of a[r * a_row + k * a_step] * b[k * b_step
// ...].
struct Operands {
  const float *a;
  int64_t a_row, a_step;
  const float *b;
  int64_t b_step, terms;
};

template <int R, int NV, bool Pairs = false>
inline void tile_product(const Operands &o, int64_t row, bool fresh, float *sums) {
  Tile<R, NV> tile;
  tile.zero();
  if (o.a_step == 1)  // the next tile's rows lie behind this one's
    for (int64_t i = 0; i < R * o.a_row; i += 16) __builtin_prefetch(o.a + (row + R) * o.a_row + i);
  tile.template multiply_add<Pairs>(o.a + row * o.a_row, o.a_row, o.a_step, o.b, o.b_step, o.terms);
  if (!fresh) tile.add(sums + row * NV * kWidth);
  tile.write(sums + row * NV * kWidth);
}

// `rows` rows of sums, in tiles; up to the next multiple of kRows / 2 rows are read and written.
template <int NV, bool Pairs = false>
inline void matrix_product(const Operands &o, int64_t rows, bool fresh, float *sums) {
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) tile_product<kRows, NV, Pairs>(o, row, fresh, sums);
  if (rows - row > kRows / 2)
    tile_product<kRows, NV, Pairs>(o, row, fresh, sums);
  else if (rows > row)
    tile_product<kRows / 2, NV, Pairs>(o, row, fresh, sums);
}

// Panels of up to kPanel columns are one or two vectors wide in packed memory.
struct Panel {
  int64_t first, columns;
  int64_t width() const { return columns > kWidth ? kPanel : kWidth; }
};
inline int64_t panel_count(int64_t columns) { return ceil_div(columns, kPanel); }
inline Panel panel_at(int64_t columns, int64_t index) {
  return {index * kPanel, lesser(kPanel, columns - index * kPanel)};
}

// Pairs: the elements are pairs of bfloat16, and terms are counted in pairs.
template <bool Pairs = false>
inline void matrix_product(const Panel &panel, const Operands &o, int64_t rows, bool fresh, float *sums) {
  if (panel.width() == kPanel)
    matrix_product<2, Pairs>(o, rows, fresh, sums);
  else
    matrix_product<1, Pairs>(o, rows, fresh, sums);
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
