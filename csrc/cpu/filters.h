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

// Weights are read in short stretches of far rows, which no hardware foresees. May point anywhere.
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
  // which of Toom and Cook's products alone makes the last. `last`: the part has the last tap.
  int64_t needed(const Piece &piece, int64_t p, const Panel &, int64_t channels, int64_t positions,
                 bool last) const {
    const bool lacks = piece.transform == kRowwise || (piece.transform == kToomCook && p == 3);
    return lacks && last ? positions - (conv.stride - full_phases(conv)) * channels : positions;
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
  void turn(int64_t set, int64_t group, int64_t first, int64_t count, const Panel &panel, float *to) const {
    const int64_t size = conv.in_group() * conv.taps, stretch = count * conv.taps;
    const int64_t o = group * conv.out_group() + panel.first, width = panel.width();
    const float *from = sets[set].raw + o * size + first * conv.taps, *scale = sets[set].scale + o;
    for (int64_t v = 0; v < width; v += kWidth)
      for (int64_t i = 0; i < stretch; i += kWidth) {
        const int64_t lanes = lesser(kWidth, stretch - i);
        Vec rows[kWidth];
        for (int64_t j = v; j < v + kWidth; ++j) {
          rows[j - v] = j < panel.columns ? load_lanes(from + j * size + i, lanes) * scale[j] : Vec{};
          if (j < panel.columns) prefetch(from + j * size + i + 4 * kWidth, kWidth);
        }
        transpose(rows);
        for (int64_t k = 0; k < lanes; ++k) store(to + (i + k) * width + v, rows[k]);
      }
  }
  Turned turned(const Panel &panel, const float *at) const { return {conv, at, panel.width()}; }
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
  int64_t needed(const Piece &piece, int64_t p, const Panel &panel, int64_t, int64_t positions, bool) const {
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
  void turn(int64_t set, int64_t group, int64_t first, int64_t count, const Panel &panel, float *to) const {
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
  }
  Turned turned(const Panel &panel, const float *at) const { return {at, taps(), panel.width()}; }
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

// Turns a panel of gradients back into rows: grad[j] = [channel][tap].
inline void unpack_panel(const Conv &conv, const Panel &panel, const float *from, float *grad) {
  const int64_t width = panel.width(), channels = conv.in_group(), size = channels * conv.taps;
  for (int64_t v = 0; v < panel.columns; v += kWidth)
    for (int64_t i = 0; i < size; i += kWidth) {
      const int64_t lanes = lesser(kWidth, size - i);
      Vec rows[kWidth] = {};
      for (int64_t k = 0; k < lanes; ++k)
        rows[k] = load(from + ((i + k) % conv.taps * channels + (i + k) / conv.taps) * width + v);
      transpose(rows);
      for (int64_t j = v; j < lesser(v + kWidth, panel.columns); ++j)
        store_lanes(grad + j * size + i, rows[j - v], lanes);
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
