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

// Lanes of a, then of b, by their numbers.
#if defined(__clang__)
inline Vec shuffle(Vec a, Vec b, Mask lanes) {
  Vec v;
  for (int i = 0; i < kWidth; ++i) v[i] = lanes[i] < kWidth ? a[lanes[i]] : b[lanes[i] - kWidth];
  return v;
}
#else
inline Vec shuffle(Vec a, Vec b, Mask lanes) { return __builtin_shuffle(a, b, lanes); }
#endif

inline Vec load(const float *p) { return *reinterpret_cast<const Vec *>(p); }
inline void store(float *p, Vec v) { *reinterpret_cast<Vec *>(p) = v; }

// Maps in bfloat16 are computed in float32, and rounded to nearest even where they are stored.
typedef uint16_t Halves __attribute__((vector_size(kWidth * 2), aligned(2), may_alias));
typedef uint32_t Bits __attribute__((vector_size(kWidth * 4)));

inline Vec widen(Halves halves) { return (Vec)(__builtin_convertvector(halves, Bits) << 16); }
inline Halves narrow(Vec v) {
#if defined(__AVX512BF16__)
  return (Halves)_mm512_cvtneps_pbh((__m512)v);
#else
  const Bits bits = (Bits)v;
  const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Bits quiet = (bits >> 16) | 0x40u;  // a NaN stays one
  return __builtin_convertvector((v == v) ? rounded : quiet, Halves);
#endif
}
inline Vec load(const BFloat16 *p) { return widen(*reinterpret_cast<const Halves *>(p)); }
inline void store(BFloat16 *p, Vec v) { *reinterpret_cast<Halves *>(p) = narrow(v); }

// Whether products of two bfloat16 pairs at once are to be had.
#if defined(__AVX512BF16__)
constexpr bool kHasPairs = true;
#else
constexpr bool kHasPairs = false;
#endif

// Lanes of two bfloat16: the first in the lower half. Kept as floats, whatever these bits would mean.
inline Vec pairs(Vec first, Vec second) {
#if defined(__AVX512BF16__)
  const __m512i order = _mm512_add_epi16(
      _mm512_set1_epi32(16 << 16),
      _mm512_mullo_epi32(_mm512_set1_epi32(0x10001),
                         _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)));
  const __m512bh both = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
  return (Vec)_mm512_permutexvar_epi16(order, (__m512i)both);
#else
  (void)second;
  return first;
#endif
}

// Two of what a transform gives, `count` vectors one after another, as pairs `pitch` floats apart.
inline void store_pairs(const float *first, const float *second, int64_t count, float *to, int64_t pitch) {
  for (int64_t i = 0; i < count; ++i)
    store(to + i * pitch, pairs(load(first + i * kWidth), load(second + i * kWidth)));
}

// sum + a * b; of pairs, both products.
template <bool Pairs>
inline Vec multiply_add(Vec sum, const float *a, Vec b) {
#if defined(__AVX512BF16__)
  if constexpr (Pairs)
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(*a), (__m512bh)(__m512)b);
#endif
  return sum + *a * b;
}

// As a stored map would have it.
template <class T>
inline Vec rounded(Vec v) {
  if constexpr (sizeof(T) == sizeof(BFloat16))
    return widen(narrow(v));
  else
    return v;
}
template <class T>
inline float rounded(float value) {
  return rounded<T>(Vec{} + value)[0];
}

inline float number(float value) { return value; }
inline float number(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}
template <class T>
inline T element(float value) {
  T element;
  if constexpr (sizeof(T) == sizeof(BFloat16))
    element.bits = narrow(Vec{} + value)[0];
  else
    element = value;
  return element;
}

// The first `count` lanes, 0 < count <= kWidth; the others are zero, and no memory behind them is read.
#if defined(__AVX512F__) && !defined(__SANITIZE_ADDRESS__)  // which does not see masked loads and stores
inline Vec load_partial(const float *p, int64_t count) {
  return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}
inline void store_partial(float *p, Vec v, int64_t count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), (__m512)v);
}
#else
inline Vec load_partial(const float *p, int64_t count) {
  Vec v = {};
  std::memcpy(&v, p, static_cast<std::size_t>(count) * sizeof(float));
  return v;
}
inline void store_partial(float *p, Vec v, int64_t count) {
  std::memcpy(p, &v, static_cast<std::size_t>(count) * sizeof(float));
}
#endif

inline Vec load_partial(const BFloat16 *p, int64_t count) {
  Halves halves = {};
  std::memcpy(&halves, p, static_cast<std::size_t>(count) * sizeof(BFloat16));
  return widen(halves);
}
inline void store_partial(BFloat16 *p, Vec v, int64_t count) {
  const Halves halves = narrow(v);
  std::memcpy(p, &halves, static_cast<std::size_t>(count) * sizeof(BFloat16));
}
// The lower half; the upper is zero.
#if defined(__AVX512F__)
inline Vec load_half(const float *p) { return (Vec)_mm512_maskz_broadcast_f32x8(0xff, _mm256_loadu_ps(p)); }
inline void store_half(float *p, Vec v) {
  _mm256_storeu_ps(p, _mm512_maskz_extractf32x8_ps(0xff, (__m512)v, 0));
}
inline Vec load_half(const BFloat16 *p) {
  return widen((Halves)_mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
}
inline void store_half(BFloat16 *p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_castsi256_si128((__m256i)narrow(v)));
}
#else
template <class T>
inline Vec load_half(const T *p) {
  return load_partial(p, kWidth / 2);
}
template <class T>
inline void store_half(T *p, Vec v) {
  store_partial(p, v, kWidth / 2);
}
#endif

// Whole and half vectors, as most are, without a mask, which is slow to store by.
template <class T>
inline Vec load_lanes(const T *p, int64_t count) {
  return count == kWidth ? load(p) : count == kWidth / 2 ? load_half(p) : load_partial(p, count);
}
template <class T>
inline void store_lanes(T *p, Vec v, int64_t count) {
  if (count == kWidth)
    store(p, v);
  else if (count == kWidth / 2)
    store_half(p, v);
  else
    store_partial(p, v, count);
}

// Rows become columns: in each of log2(kWidth) rounds, row i and row i + kWidth / 2 interleave.
inline void transpose(Vec *rows) {
  Mask low, high;
  for (int i = 0; i < kWidth; ++i) {
    low[i] = i / 2 + i % 2 * kWidth;
    high[i] = low[i] + kWidth / 2;
  }
  Vec other[kWidth];
#pragma GCC unroll 4
  for (int round = 1; round < kWidth; round *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < kWidth / 2; ++i) {
      other[2 * i] = shuffle(rows[i], rows[i + kWidth / 2], low);
      other[2 * i + 1] = shuffle(rows[i], rows[i + kWidth / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) rows[i] = other[i];
  }
}

// value where where > 0, slope * value elsewhere: leaky ReLU, and its backward by the sign of the
// stored output (the slope is positive, so the output has its input's sign).
inline Vec leaky(Vec value, Vec where, float slope) { return (where > 0.0f) ? value : value * slope; }
// scale where d > 0, -scale where d < 0, and 0 or NaN elsewhere: the gradient of scale * |d|.
inline Vec signed_as(Vec d, float scale) {
  const Vec flat = d * scale;
  return (d > 0.0f) ? Vec{} + scale : (d < 0.0f) ? Vec{} - scale : flat;
}
// What a MapGrad adds to the gradient of the values `own`, which lie `at` into the run.
template <class T>
inline Vec added(const MapGrad<T> &grad, int64_t at, Vec own, int64_t lanes) {
  const Vec given = load_lanes(grad.at + at, lanes);
  return grad.is_match ? signed_as(own - given, grad.scale) : given;
}
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

template <class T>
inline float dot(const T *a, const float *b, int64_t n) {
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
