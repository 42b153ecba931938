// Fast correlations: y[h] = sum over j of g[j] x[h + j], by fewer products than outputs x taps.
//
// Each is a triple of linear maps: x -> left, g -> right, and products left[p] * right[p] -> y. Sums
// over channels are taken between the last two, as one matrix product for each p.
#pragma once

#include "fourier.h"

namespace hifigan {
namespace HIFIGAN_ISA {

// Vectors in, products `pitch` floats apart out, and back. `taps` is the length of g; at least the
// first `wanted` of y are computed.
struct Transform {
  void (*left)(const Vec *x, float *to, int64_t pitch);
  void (*right)(const Vec *g, int64_t taps, float *to, int64_t pitch);
  void (*inverse)(const float *from, int64_t pitch, int64_t taps, int64_t wanted, Vec *y);
};

// Toom and Cook's by the points 0, 1, -1 and infinity: 4 products for 3 outputs of 2 taps, or 2 of 3
// (Winograd's minimal filtering F(3, 2) and F(2, 3)).
struct ToomCook {
  static void left(const Vec *x, float *to, int64_t pitch) {
    store(to, x[0] - x[2]);
    store(to + pitch, x[1] + x[2]);
    store(to + 2 * pitch, x[2] - x[1]);
    store(to + 3 * pitch, x[1] - x[3]);
  }
  static void right(const Vec *g, int64_t taps, float *to, int64_t pitch) {
    const Vec even = taps == 3 ? g[0] + g[2] : g[0];
    store(to, g[0]);
    store(to + pitch, 0.5f * (even + g[1]));
    store(to + 2 * pitch, 0.5f * (even - g[1]));
    store(to + 3 * pitch, g[taps - 1]);
  }
  static void inverse(const float *from, int64_t pitch, int64_t taps, int64_t, Vec *y) {
    const Vec one = load(from + pitch), minus = load(from + 2 * pitch), last = load(from + 3 * pitch);
    y[0] = load(from) + (one + minus);
    if (taps == 3) {
      y[1] = (one - minus) - last;
    } else {
      y[1] = one - minus;
      y[2] = (one + minus) - last;
    }
  }
};

// Circular correlation by the Fourier transform; a product of complex numbers by three real ones
// (Gauss): (a + ib)(c - id) = (k - b (c - d)) + i (k - a (c + d)), k = (a + b) c.
template <int N>
struct Circular {
  static constexpr int kHalf = N / 2;
  static constexpr int kFewTaps = 5;  // of a long transform, that of the period discriminators' filters

  static void left(const Vec *x, float *to, int64_t pitch) {
    Vec re[kHalf + 1], im[kHalf + 1];
    Fourier<N>::forward(x, 1, re, im);
    store(to, re[0]);
    store(to + pitch, re[kHalf]);
    for (int k = 1; k < kHalf; ++k) {
      float *at = to + (3 * k - 1) * pitch;
      store(at, re[k] + im[k]);
      store(at + pitch, re[k]);
      store(at + 2 * pitch, im[k]);
    }
  }
  static void right(const Vec *g, int64_t taps, float *to, int64_t pitch) {
    Vec x[N], re[kHalf + 1], im[kHalf + 1];
    for (int64_t j = 0; j < taps; ++j) x[j] = g[j] * (1.0f / N);
    if (taps == kFewTaps && N > 2 * kFewTaps) {
      Fourier<N>::template forward_of_first<kFewTaps>(x, re, im);
    } else {
      for (int64_t j = taps; j < N; ++j) x[j] = Vec{};
      Fourier<N>::forward(x, 1, re, im);
    }
    store(to, re[0]);
    store(to + pitch, re[kHalf]);
    for (int k = 1; k < kHalf; ++k) {
      float *at = to + (3 * k - 1) * pitch;
      store(at, re[k]);
      store(at + pitch, re[k] + im[k]);
      store(at + 2 * pitch, re[k] - im[k]);
    }
  }
  static void inverse(const float *from, int64_t pitch, int64_t, int64_t wanted, Vec *y) {
    Vec re[kHalf + 1], im[kHalf + 1];
    re[0] = load(from);
    re[kHalf] = load(from + pitch);
    for (int k = 1; k < kHalf; ++k) {
      const float *at = from + (3 * k - 1) * pitch;
      const Vec common = load(at);
      re[k] = common - load(at + 2 * pitch);
      im[k] = common - load(at + pitch);
    }
    if (wanted <= kFewTaps && N > 2 * kFewTaps)
      Fourier<N>::template first_of_backward<kFewTaps>(re, im, y);
    else
      Fourier<N>::backward(re, im, y, 1);
  }
};

// One product an output row and tap: no fewer, but rows of many short sequences fill the tiles.
struct Rowwise {
  static void left(const Vec *x, float *to, int64_t) { store(to, x[0]); }
  static void right(const Vec *g, int64_t, float *to, int64_t) { store(to, g[0]); }
  static void inverse(const float *from, int64_t, int64_t, int64_t, Vec *y) { y[0] = load(from); }
};

template <class T>
constexpr Transform transform_of() {
  return {T::left, T::right, T::inverse};
}

// In the order of kTransforms (shapes.h).
constexpr Transform kTransformers[] = {
    transform_of<ToomCook>(),     transform_of<Circular<8>>(),  transform_of<Circular<12>>(),
    transform_of<Circular<14>>(), transform_of<Circular<16>>(), transform_of<Circular<18>>(),
    transform_of<Circular<20>>(), transform_of<Circular<24>>(), transform_of<Circular<28>>(),
    transform_of<Circular<32>>(), transform_of<Circular<36>>(), transform_of<Circular<40>>(),
    transform_of<Circular<48>>(), transform_of<Circular<56>>(), transform_of<Circular<64>>(),
    transform_of<Rowwise>(),
};
static_assert(sizeof(kTransformers) / sizeof(kTransformers[0]) == kTransformCount, "a transform a length");

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
