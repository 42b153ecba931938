// Weights, from the parameters' layout [out channels][in channels of a group][taps] to the packed one
// and back. Effective weights are raw · scale, a scale an output channel: weight norm (g / |v|),
// spectral norm (1 / sigma) and none (1) alike.
#pragma once

#include "simd.h"

namespace hifigan {
namespace HIFIGAN_ISA {

// norms[o] = |raw[o]|
inline void row_norms(const float *raw, int64_t rows, int64_t size, float *norms, int threads) {
  parallel_for(threads, rows, [&](int64_t o) {
    const float *row = raw + o * size;
    norms[o] = __builtin_sqrtf(dot(row, row, size));
  });
}

// Rows of weights are read and written in stretches of whole channels, long enough to stream, and
// turned in a buffer that the nearest caches hold; an odd pitch keeps its columns in different sets.
inline int64_t stretch_channels(const Conv &conv) { return greater(1, 512 / conv.taps); }
inline int64_t turn_pitch(const Conv &conv) { return stretch_channels(conv) * conv.taps | 1; }

// Packed for the forward product: [group][panel][tap][channel][column].
template <int NV>
void pack_panel(const Conv &conv, const Panel &panel, const float *raw, const float *scale, float *to) {
  constexpr int64_t width = NV * kWidth;
  const int64_t channels = conv.in_group(), size = channels * conv.taps, pitch = turn_pitch(conv);
  float *turn = scratch(static_cast<std::size_t>(width * pitch));
  std::memset(turn, 0, static_cast<std::size_t>(width * pitch) * sizeof(float));
  for (int64_t c0 = 0; c0 < channels; c0 += stretch_channels(conv)) {
    const int64_t count = lesser(stretch_channels(conv), channels - c0);
    for (int64_t j = 0; j < panel.columns; ++j) {
      const float *from = raw + j * size + c0 * conv.taps;
      for (int64_t i = 0; i < count * conv.taps; ++i) turn[j * pitch + i] = from[i] * scale[j];
    }
    for (int64_t t = 0; t < conv.taps; ++t)
      for (int64_t c = 0; c < count; ++c)
        for (int64_t j = 0; j < width; ++j)
          to[(t * channels + c0 + c) * width + j] = turn[j * pitch + c * conv.taps + t];
  }
}

inline void pack_forward(const Conv &conv, const Product &p, const float *raw, const float *scale,
                         float *packed, int threads) {
  parallel_for(threads, p.groups * p.panel_count, [&](int64_t task) {
    const int64_t group = task / p.panel_count;
    const Panel &panel = p.panels[task % p.panel_count];
    const int64_t first = group * conv.out_group() + panel.first_column;
    const float *from = raw + first * conv.in_group() * conv.taps;
    float *to = packed + group * p.group_floats + panel.weights;
    if (vectors(panel.columns) == 2)
      pack_panel<2>(conv, panel, from, scale + first, to);
    else
      pack_panel<1>(conv, panel, from, scale + first, to);
  });
}

// Packed for the input gradient: [group][panel][window row][out channel][(phase, in channel)]; phase f
// meets tap f + padding - stride * d in window row d, and a zero where there is no such tap.
inline void pack_input_grad(const Conv &conv, const Product &p, const float *raw, const float *scale,
                            float *packed, int threads) {
  const int64_t channels = conv.in_group(), size = channels * conv.taps, outs = conv.out_group();
  constexpr int64_t kRowsAtOnce = 16;  // neighbouring rows of a panel are written in one go
  const int64_t blocks = ceil_div(outs, kRowsAtOnce);
  parallel_for(threads, p.groups * blocks, [&](int64_t task) {
    const int64_t group = task / blocks, first = task % blocks * kRowsAtOnce;
    for (int64_t i = 0; i < p.panel_count; ++i) {
      const Panel &panel = p.panels[i];
      const int64_t width = vectors(panel.columns) * kWidth;
      for (int64_t n = first; n < lesser(outs, first + kRowsAtOnce); ++n) {
        const int64_t o = group * outs + n;
        for (int64_t d = 0; d < panel.taps; ++d) {
          float *to = packed + group * p.group_floats + panel.weights + (d * outs + n) * width;
          int64_t j = 0;
          while (j < panel.columns) {  // one phase at a time
            const int64_t phase = (panel.first_column + j) / channels;
            const int64_t c = (panel.first_column + j) % channels;
            const int64_t end = j + lesser(channels - c, panel.columns - j);
            const int64_t tap = phase + conv.padding - conv.stride * (panel.first + d);
            const bool exists = tap >= 0 && tap < conv.taps;
            const float *from = raw + o * size + c * conv.taps + (exists ? tap : 0);
            const float by = exists ? scale[o] : 0.0f;
            for (; j < end; ++j, from += conv.taps) to[j] = exists ? *from * by : 0.0f;
          }
          for (; j < width; ++j) to[j] = 0.0f;
        }
      }
    }
  });
}

// Turns a panel of gradients back into rows: grad[j] = [channel][tap].
template <int NV>
void unpack_panel(const Conv &conv, const Panel &panel, const float *from, float *grad) {
  constexpr int64_t width = NV * kWidth;
  const int64_t channels = conv.in_group(), size = channels * conv.taps, pitch = turn_pitch(conv);
  float *turn = scratch(static_cast<std::size_t>(width * pitch));
  for (int64_t c0 = 0; c0 < channels; c0 += stretch_channels(conv)) {
    const int64_t count = lesser(stretch_channels(conv), channels - c0);
    for (int64_t t = 0; t < conv.taps; ++t)
      for (int64_t c = 0; c < count; ++c)
        for (int64_t j = 0; j < width; ++j)
          turn[j * pitch + c * conv.taps + t] = from[(t * channels + c0 + c) * width + j];
    for (int64_t j = 0; j < panel.columns; ++j)
      std::memcpy(grad + j * size + c0 * conv.taps, turn + j * pitch,
                  static_cast<std::size_t>(count * conv.taps) * sizeof(float));
  }
}

// The gradient of one set's effective weights, from the packed layout of the forward product, turned
// into that of the raw ones: inner[o] = <grad[o], raw[o]>, grad_raw = scale * (grad - inner / norms^2 * raw),
// the second term only where `norms` is given (weight norm).
inline void unpack_grad(const Conv &conv, const Product &p, const float *packed, const float *raw,
                        const float *scale, const float *norms, float *grad_raw, float *inner, int threads) {
  const int64_t size = conv.in_group() * conv.taps;
  parallel_for(threads, p.groups * p.panel_count, [&](int64_t task) {
    const int64_t group = task / p.panel_count;
    const Panel &panel = p.panels[task % p.panel_count];
    const int64_t first = group * conv.out_group() + panel.first_column;
    const float *from = packed + group * p.group_floats + panel.weights;
    if (vectors(panel.columns) == 2)
      unpack_panel<2>(conv, panel, from, grad_raw + first * size);
    else
      unpack_panel<1>(conv, panel, from, grad_raw + first * size);
    for (int64_t o = first; o < first + panel.columns; ++o) {
      float *grad = grad_raw + o * size;
      const float *value = raw + o * size;
      inner[o] = dot(grad, value, size);
      const float along = norms ? inner[o] / (norms[o] * norms[o]) : 0.0f;
      for (int64_t i = 0; i < size; ++i) grad[i] = scale[o] * (grad[i] - along * value[i]);
    }
  });
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
