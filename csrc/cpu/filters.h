// Weights between the parameters' layout [out channels][in channels of a group][taps] and that of a
// panel of columns, whose lanes are columns; their norms, and the way back of their gradients.
#pragma once

#include "tile.h"

namespace hifigan {
namespace HIFIGAN_ISA {

// norms[o] = |raw[o]|
inline void row_norms(const float *raw, int64_t rows, int64_t size, float *norms, int threads) {
  parallel_for(threads, rows, [&](int64_t o) {
    const float *row = raw + o * size;
    norms[o] = __builtin_sqrtf(dot(row, row, size));
  });
}

// Weights are read in short pieces of far rows, which no hardware foresees. May point anywhere.
inline void prefetch(const float *p, int64_t floats) {
  for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(p + i);
}

// Phases that have as many taps as any.
inline int64_t full_phases(const Conv &conv) {
  return conv.taps - conv.stride * (ceil_div(conv.taps, conv.stride) - 1);
}

// Filters of a forward pass: positions are (phase, in channel), columns are out channels.
struct ForwardFilters {
  const Conv &conv;
  const Filters *sets;

  int64_t floats(int64_t channels) const { return channels * conv.taps * kPanel; }
  Panel panel(int64_t index) const { return panel_at(conv.out_group(), index); }

  // How many of a part's positions meet filters in product p: the last phases may lack the last tap,
  // which of Toom and Cook's products alone makes the last.
  int64_t needed(const Piece &piece, int64_t p, const Panel &, int64_t channels, int64_t positions) const {
    return piece.transform == kToomCook && p == 3 ? positions - (conv.stride - full_phases(conv)) * channels
                                                  : positions;
  }
  int64_t rows_without_filters(const Panel &) const { return 0; }  // a window ends with the last tap

  struct Turned {
    const Conv &conv;
    const float *from;  // [channel][tap][column]
    int64_t width;

    const float *at(int64_t j, int64_t phase, int64_t channel) const {
      const int64_t tap = j * conv.stride + phase;
      return tap < conv.taps ? from + (channel * conv.taps + tap) * width : nullptr;
    }
  };
  Turned turn(int64_t set, int64_t group, int64_t first, int64_t count, const Panel &panel, float *to) const {
    const int64_t size = conv.in_group() * conv.taps, stretch = count * conv.taps;
    const int64_t o = group * conv.out_group() + panel.first, width = panel.width();
    const float *from = sets[set].raw + o * size + first * conv.taps, *scale = sets[set].scale + o;
    constexpr int64_t at_once = 64;  // of the nearest cache's lines
    for (int64_t begin = 0; begin < stretch; begin += at_once)
      for (int64_t j = 0; j < width; ++j) {
        const float by = j < panel.columns ? scale[j] : 0.0f;
        if (j < panel.columns) prefetch(from + j * size + begin + at_once, at_once);
        for (int64_t i = begin; i < lesser(stretch, begin + at_once); ++i)
          to[i * width + j] = j < panel.columns ? from[j * size + i] * by : 0.0f;
      }
    return {conv, to, width};
  }
};

// Filters of an input gradient: positions are out channels, columns are (phase, in channel), and time
// runs backwards.
struct InputGradFilters {
  const Conv &conv;
  const Filters *sets;

  int64_t taps() const { return ceil_div(conv.taps, conv.stride); }
  int64_t floats(int64_t channels) const { return channels * taps() * kPanel; }

  // The phases of the same channels one after another: their filters lie side by side.
  Panel panel(int64_t index) const {
    const int64_t columns = conv.stride * conv.in_group();
    if (conv.in_group() % kPanel == 0)
      index = index % conv.stride * (conv.in_group() / kPanel) + index / conv.stride;
    return panel_at(columns, index);
  }

  // As above; time runs backwards, so that it is the first tap, and the first product.
  bool lacks_first(const Panel &panel) const { return panel.first >= full_phases(conv) * conv.in_group(); }
  int64_t needed(const Piece &piece, int64_t p, const Panel &panel, int64_t, int64_t positions) const {
    return piece.transform == kToomCook && p == 0 && lacks_first(panel) ? 0 : positions;
  }
  // Of a window's first: no zero then meets a NaN, and nothing is multiplied in vain.
  int64_t rows_without_filters(const Panel &panel) const { return taps() > 1 && lacks_first(panel) ? 1 : 0; }

  struct Turned {
    const float *from;  // [out channel][tap of a phase][column]
    int64_t taps, width;

    const float *at(int64_t j, int64_t, int64_t channel) const {
      return j < taps ? from + (channel * taps + taps - 1 - j) * width : nullptr;
    }
  };
  Turned turn(int64_t set, int64_t group, int64_t first, int64_t count, const Panel &panel, float *to) const {
    const int64_t channels = conv.in_group(), size = channels * conv.taps, width = panel.width();
    for (int64_t j = 0; j < width;) {  // up to the end of a phase, or of the panel
      const int64_t phase = (panel.first + j) / channels, channel = (panel.first + j) % channels;
      const int64_t end = j + lesser(channels - channel, width - j);
      for (int64_t n = 0; n < count; ++n) {
        const int64_t o = group * conv.out_group() + first + n;
        const float *from = sets[set].raw + o * size + channel * conv.taps, by = sets[set].scale[o];
        prefetch(from + 4 * size, (end - j) * conv.taps);
        for (int64_t t = 0, tap = phase; t < taps(); ++t, tap += conv.stride) {
          float *row = to + (n * taps() + t) * width;
          const bool exists = j < panel.columns && tap < conv.taps;
          for (int64_t i = j; i < end; ++i) row[i] = exists ? from[(i - j) * conv.taps + tap] * by : 0.0f;
        }
      }
      j = end;
    }
    return {to, taps(), width};
  }
};

// While they are summed, gradients of effective weights are packed [group][panel][tap][channel][column].
// A tile's rows past the last position are written too.
inline int64_t packed_positions(const Conv &conv) { return round_up(conv.in_group() * conv.taps, kRows); }
inline int64_t packed_floats(const Conv &conv) {
  return conv.groups * round_up(conv.out_group(), kWidth) * packed_positions(conv);
}
inline float *packed_panel(const Conv &conv, float *packed, int64_t group, const Panel &panel) {
  const int64_t columns = round_up(conv.out_group(), kWidth);
  return packed + (group * columns + panel.first) * packed_positions(conv);
}

// Turns a panel of gradients back into rows: grad[j] = [channel][tap]. Rows are written in stretches
// of whole channels, turned in a buffer of odd pitch, whose columns lie in different cache sets.
inline void unpack_panel(const Conv &conv, const Panel &panel, const float *from, float *grad) {
  const int64_t width = panel.width();
  const int64_t channels = conv.in_group(), size = channels * conv.taps;
  const int64_t stretch = greater(1, 512 / conv.taps), pitch = stretch * conv.taps | 1;
  float *turn = scratch(Scratch::own, static_cast<std::size_t>(width * pitch));
  for (int64_t c0 = 0; c0 < channels; c0 += stretch) {
    const int64_t count = lesser(stretch, channels - c0);
    for (int64_t t = 0; t < conv.taps; ++t)
      for (int64_t c = 0; c < count; ++c)
        for (int64_t j = 0; j < width; ++j)
          turn[j * pitch + c * conv.taps + t] = from[(t * channels + c0 + c) * width + j];
    for (int64_t j = 0; j < panel.columns; ++j)
      std::memcpy(grad + j * size + c0 * conv.taps, turn + j * pitch,
                  static_cast<std::size_t>(count * conv.taps) * sizeof(float));
  }
}

// Turns gradients of rows first ... first + count - 1 of effective weights into those of the raw ones, in
// place: inner[o] = <grad[o], raw[o]>, grad_raw = scale * (grad - inner / norms^2 * raw), the second
// term only where there are norms (weight norm).
inline void finish_rows(const Conv &conv, const Filters &filters, const FilterGrads &grads, int64_t first,
                        int64_t count) {
  const int64_t size = conv.in_group() * conv.taps;
  for (int64_t o = first; o < first + count; ++o) {
    float *grad = grads.raw + o * size;
    const float *value = filters.raw + o * size, scale = filters.scale[o];
    grads.inner[o] = dot(grad, value, size);
    const float along = grads.norms ? grads.inner[o] / (grads.norms[o] * grads.norms[o]) : 0.0f;
    for (int64_t i = 0; i < size; ++i) grad[i] = scale * (grad[i] - along * value[i]);
  }
}

// A packed panel's gradients, finished.
inline void finish_panel(const Conv &conv, int64_t group, const Panel &panel, const float *packed,
                         const Filters &filters, const FilterGrads &grads) {
  const int64_t first = group * conv.out_group() + panel.first;
  unpack_panel(conv, panel, packed, grads.raw + first * conv.in_group() * conv.taps);
  finish_rows(conv, filters, grads, first, panel.columns);
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
