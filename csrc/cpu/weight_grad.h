// Weight and bias gradients: the transposed product of the same overlapped rows. Each register tile
// sums over all rows by itself, in one order, so the result does not depend on the thread count.
#pragma once

#include "tile.h"

namespace hifigan {
namespace HIFIGAN_ISA {

constexpr int64_t kGradRows = 128;  // output rows between two visits to a tile
constexpr int64_t kGradTiles = 64;  // tiles of one task: they stay in the second cache
constexpr int64_t kGradSpans = 64;

// Consecutive output rows of one sequence.
struct Span {
  const float *x, *grad;  // the sequence's first rows
  int64_t first, last;    // rows first ... last - 1
  int64_t in_rows;
};

// A tile's rows are (tap, channel) pairs, consecutive in the packed order.
struct GradTile {
  int64_t tap[kRows];
  int64_t offset[kRows];  // floats from the window's first element
  int64_t first, count;   // packed rows
};

// Tiles of wide groups stay within a tap, so that a row outside the sequence is simply left out.
inline int64_t tile_stretch(const Conv &conv) {
  return conv.in_group() >= 4 * kRows ? conv.in_group() : conv.taps * conv.in_group();
}
inline int64_t grad_tiles(const Conv &conv) {
  const int64_t depth = conv.taps * conv.in_group();
  return depth / tile_stretch(conv) * ceil_div(tile_stretch(conv), kRows);
}
inline GradTile grad_tile(const Conv &conv, int64_t index) {
  const int64_t stretch = tile_stretch(conv), per_stretch = ceil_div(stretch, kRows);
  const int64_t begin = index / per_stretch * stretch, inner = index % per_stretch * kRows;
  GradTile tile;
  tile.first = begin + inner;
  tile.count = lesser(kRows, stretch - inner);
  for (int r = 0; r < kRows; ++r) {
    const int64_t k = tile.first + lesser(r, tile.count - 1);
    tile.tap[r] = k / conv.in_group();
    tile.offset[r] = tile.tap[r] * conv.in_channels + k % conv.in_group();
  }
  return tile;
}

template <int NV>
inline void add_span(Tile<NV> &tile, const Conv &conv, const GradTile &g, const Span &span) {
  const int64_t step = conv.stride * conv.in_channels, n = conv.out_channels;
  // Rows whose every tap of this tile lies in the sequence.
  const int64_t from =
      greater(span.first, conv.padding - g.tap[0] <= 0 ? 0 : ceil_div(conv.padding - g.tap[0], conv.stride));
  const int64_t room = span.in_rows - 1 + conv.padding - g.tap[kRows - 1];
  const int64_t to = greater(from, lesser(span.last, room < 0 ? 0 : room / conv.stride + 1));
  const float *a[kRows];
  const float *window = span.x - conv.padding * conv.in_channels;
  for (int r = 0; r < kRows; ++r) a[r] = window + from * step + g.offset[r];
  if (from < span.last)
    multiply_add<NV>(tile, a, step, span.grad + from * n, n, lesser(to, span.last) - from);
  if (g.tap[0] == g.tap[kRows - 1]) return;
  static const float zero = 0.0f;
  for (int64_t row = span.first; row < span.last; ++row) {
    if (row == from) row = to;
    if (row >= span.last) break;
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = row * conv.stride + g.tap[r] - conv.padding;
      a[r] = at >= 0 && at < span.in_rows ? window + row * step + g.offset[r] : &zero;
    }
    multiply_add<NV>(tile, a, 0, span.grad + row * n, 0, 1);
  }
}

template <int NV>
void add_spans(const Conv &conv, const Span *spans, int64_t count, int64_t first_tile, int64_t last_tile,
               bool fresh, float *grad) {
  for (int64_t t = first_tile; t < last_tile; ++t) {
    const GradTile g = grad_tile(conv, t);
    float *at = grad + g.first * NV * kWidth;
    Tile<NV> tile;
    tile.zero();
    for (int64_t s = 0; s < count; ++s) add_span<NV>(tile, conv, g, spans[s]);
    if (!fresh) tile.add(at, g.count);
    tile.write(at, g.count);
  }
}

// Gathers the spans of one panel's sums and adds them to the gradient, kGradRows rows at a time.
struct GradPanel {
  const Conv &conv;
  const Panel &panel;
  int64_t first_tile, last_tile;
  float *grad;
  float *copy;  // of gradient rows whose panel is narrower than its vectors; null where none is
  int64_t count = 0, rows = 0;
  bool fresh = true;
  Span spans[kGradSpans] = {};

  int64_t width() const { return vectors(panel.columns) * kWidth; }

  void flush() {
    if (!count && !fresh) return;
    Conv seen = conv;
    if (copy) seen.out_channels = width();
    if (vectors(panel.columns) == 2)
      add_spans<2>(seen, spans, count, first_tile, last_tile, fresh, grad);
    else
      add_spans<1>(seen, spans, count, first_tile, last_tile, fresh, grad);
    count = rows = 0;
    fresh = false;
  }

  const float *padded(const float *grads, int64_t first, int64_t last) {
    float *to = copy + rows * width();
    for (int64_t r = first; r < last; ++r) {
      float *row = to + (r - first) * width();
      for (int64_t c = 0; c < width(); ++c)
        row[c] = c < panel.columns ? grads[r * conv.out_channels + c] : 0.0f;
    }
    return to - first * width();
  }

  void add(const float *x, const float *grads, int64_t in_rows, int64_t out_rows) {
    for (int64_t first = 0; first < out_rows;) {
      const int64_t last = lesser(out_rows, first + kGradRows - rows);
      spans[count++] = {x, copy ? padded(grads, first, last) : grads, first, last, in_rows};
      rows += last - first;
      if (rows == kGradRows || count == kGradSpans) flush();
      first = last;
    }
  }
};

// grad_weights has the packed layout of the forward product `p`, one set after another.
// source(run, sequence, buffer) gives a sequence's first row; it may write it to `buffer`
// (buffer_floats long), which then serves one sequence at a time.
template <class Source>
void weight_grad(const Conv &conv, const Product &p, const Run *runs, int64_t run_count, int64_t sets,
                 const float *grad_out, float *grad_weights, int threads, int64_t buffer_floats,
                 const Source &source) {
  const int64_t chunks = ceil_div(grad_tiles(conv), kGradTiles);
  parallel_for(threads, sets * p.groups * p.panel_count * chunks, [&](int64_t task) {
    const int64_t chunk = task % chunks;
    const Panel &panel = p.panels[task / chunks % p.panel_count];
    const int64_t group = task / chunks / p.panel_count % p.groups;
    const int64_t set = task / chunks / p.panel_count / p.groups;
    float *memory = scratch(static_cast<std::size_t>(kGradRows * kPanel + buffer_floats));
    GradPanel sums{conv,
                   panel,
                   chunk * kGradTiles,
                   lesser(grad_tiles(conv), (chunk + 1) * kGradTiles),
                   grad_weights + (set * p.groups + group) * p.group_floats + panel.weights,
                   panel.columns % kWidth ? memory : nullptr};
    for (int64_t i = 0; i < run_count; ++i) {
      const Run &run = runs[i];
      if (run.weights != set) continue;
      for (int64_t q = 0; q < run.sequences(); ++q) {
        const float *x = source(run, q, memory + kGradRows * kPanel) + group * conv.in_group();
        const float *grads = grad_out + (run.grad_out_offset + q * run.out_rows) * conv.out_channels +
                             group * conv.out_group() + panel.first_column;
        sums.add(x, grads, buffer_floats ? buffer_floats : run.in_rows, run.out_rows);
        if (buffer_floats) sums.flush();
      }
    }
    sums.flush();
  });
}

// grad_bias[set][channel] = the sum of grad_out over the set's rows.
inline void bias_grad(const Conv &conv, const Run *runs, int64_t run_count, int64_t sets,
                      const float *grad_out, float *grad_bias, int threads) {
  constexpr int64_t wide = 4 * kWidth;
  const int64_t blocks = ceil_div(conv.out_channels, wide);
  parallel_for(threads, sets * blocks, [&](int64_t task) {
    const int64_t set = task / blocks, channel = task % blocks * wide;
    const int64_t columns = lesser(wide, conv.out_channels - channel);
    float total[wide] = {};
    for (int64_t i = 0; i < run_count; ++i) {
      const Run &run = runs[i];
      if (run.weights != set) continue;
      const float *rows = grad_out + run.grad_out_offset * conv.out_channels + channel;
      const int64_t count = run.sequences() * run.out_rows;
      for (int64_t first = 0; first < count; first += kGradRows) {  // sums of sums: less rounding
        float part[wide] = {};
        for (int64_t r = first; r < lesser(count, first + kGradRows); ++r)
          for (int64_t c = 0; c < columns; ++c) part[c] += rows[r * conv.out_channels + c];
        for (int64_t c = 0; c < columns; ++c) total[c] += part[c];
      }
    }
    std::memcpy(grad_bias + set * conv.out_channels + channel, total,
                static_cast<std::size_t>(columns) * sizeof(float));
  });
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
