// The vector type of the instruction set that this translation unit is compiled for.
//
// Everything here and in the kernels' headers lives in a namespace of that instruction set, and uses
// no templates of the standard library: the linker merges equal template instances, and would
// otherwise hand AVX-512 code to a machine without it.
#pragma once

#include <cstdint>
#include <cstring>

#include "memory.h"
#include "shapes.h"
#include "threads.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef HIFIGAN_ISA
#error "compile with -DHIFIGAN_ISA=<namespace of the instruction set>"
#endif

namespace hifigan {
namespace HIFIGAN_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;  // floats in a vector
constexpr int kRows = 8;    // rows of a register tile: enough accumulators for the latency, and few to set up
#elif defined(__AVX2__)
constexpr int kWidth = 8;
constexpr int kRows = 6;
#else
constexpr int kWidth = 4;  // SSE, NEON
constexpr int kRows = 6;
#endif
constexpr int kPanel = 2 * kWidth;  // columns of a full panel

typedef float Vec __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
typedef int32_t Mask __attribute__((vector_size(kWidth * 4)));

inline Vec load(const float *p) { return *reinterpret_cast<const Vec *>(p); }
inline void store(float *p, Vec v) { *reinterpret_cast<Vec *>(p) = v; }

// The first `count` lanes, 0 < count <= kWidth; the others are zero, and no memory behind them is read.
inline Vec load_partial(const float *p, int64_t count) {
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
#else
  Vec v = {};
  std::memcpy(&v, p, static_cast<std::size_t>(count) * sizeof(float));
  return v;
#endif
}
inline void store_partial(float *p, Vec v, int64_t count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), (__m512)v);
#else
  std::memcpy(p, &v, static_cast<std::size_t>(count) * sizeof(float));
#endif
}

// value where where > 0, slope * value elsewhere: leaky ReLU, and its backward by the sign of the
// stored output (the slope is positive, so the output has its input's sign).
inline Vec leaky(Vec value, Vec where, float slope) { return (where > 0.0f) ? value : value * slope; }
inline float leaky(float value, float where, float slope) { return where > 0.0f ? value : value * slope; }

inline float sum(Vec v) {
  float total = 0;
  for (int i = 0; i < kWidth; ++i) total += v[i];
  return total;
}

inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t greater(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }  // a >= 0
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

inline float dot(const float *a, const float *b, int64_t n) {
  Vec sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth)
    for (int j = 0; j < 4; ++j) sums[j] += load(a + i + j * kWidth) * load(b + i + j * kWidth);
  for (; i < n; i += kWidth) {
    const int64_t left = lesser(kWidth, n - i);
    sums[0] += load_partial(a + i, left) * load_partial(b + i, left);
  }
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
