// Correlations without a transform, for layers of few channels: an output row is the product of its
// window, operand rows that lie one after another, with the filters.
#pragma once

#include "filters.h"
#include "tile.h"

namespace hifigan {
namespace HIFIGAN_ISA {

constexpr int64_t kPartTerms = 64;  // of a sum, added up apart: roundings do not pile up
constexpr int64_t kChannelsAtOnce = 64;

// Operand rows by their place in the windows of a segment: row c.phases * i + j is row j of window i.
template <class T>
struct WindowRows {
  const Correlation &c;
  const T *operand;  // of a group
  int64_t start, end;

  WindowRows(const Correlation &correlation, const Segment &s, const T *group)
      : c(correlation),
        operand(group + s.operand * correlation.row_channels),
        start(c.phases * s.first + c.origin),
        end(s.operand_rows) {}
  Vec lanes(int64_t row, int64_t channel, int64_t count) const {
    row += start;
    return row < 0 || row >= end ? Vec{} : load_lanes(operand + row * c.row_channels + channel, count);
  }
};

// The rows of `windows` windows, [row][channel].
template <class T, class Element>
void copy_windows(const WindowRows<T> &rows, int64_t windows, Element *to) {
  const Correlation &c = rows.c;
  const int64_t count = c.phases * (windows - 1) + c.window;
  for (int64_t row = 0; row < count; ++row, to += c.channels)
    for (int64_t n = 0; n < c.channels; n += kWidth) {
      const int64_t lanes = lesser(kWidth, c.channels - n);
      store_lanes(to + n, rows.lanes(row, n, lanes), lanes);
    }
}

// The same of each two neighbours as pairs, [pair][row of the window][channel]; an odd one meets zeros.
template <class T>
void copy_window_pairs(const WindowRows<T> &rows, int64_t windows, float *to) {
  const Correlation &c = rows.c;
  for (int64_t i = 0; i < windows; i += 2)
    for (int64_t row = i * c.phases; row < i * c.phases + c.window; ++row, to += c.channels)
      for (int64_t n = 0; n < c.channels; n += kWidth) {
        const int64_t lanes = lesser(kWidth, c.channels - n);
        const Vec second = i + 1 < windows ? rows.lanes(row + c.phases, n, lanes) : Vec{};
        store_lanes(to + n, pairs(rows.lanes(row, n, lanes), second), lanes);
      }
}

// A panel's filters, rounded to the maps' element: [row of the window][channel or pair][column].
template <bool Pairs, class T, class Source>
void window_filters(const Correlation &c, int64_t set, int64_t group, const Source &source,
                    const Panel &panel, float *to) {
  constexpr int64_t at_once = Pairs ? 2 : 1;
  const int64_t width = panel.width();
  float *turned_at = scratch(Scratch::own, static_cast<std::size_t>(source.floats(kChannelsAtOnce)));
  for (int64_t first = 0; first < c.channels; first += kChannelsAtOnce) {
    const int64_t count = lesser(kChannelsAtOnce, c.channels - first);
    source.turn(set, group, first, count, panel, turned_at);
    const auto turned = source.turned(panel, turned_at);
    for (int64_t row = 0; row < c.window; ++row)
      for (int64_t n = 0; n < count; n += at_once)
        for (int64_t v = 0; v < width; v += kWidth) {
          const auto filter = [&](int64_t channel) {
            const float *tap = turned.at(row / c.phases, row % c.phases, channel);
            return tap ? load(tap + v) : Vec{};
          };
          float *at = to + (row * c.channels + first + n) / at_once * width + v;
          store(at, Pairs ? pairs(filter(n), filter(n + 1)) : rounded<T>(filter(n)));
        }
  }
}

// One segment's rows in one panel, tile by tile.
template <bool Pairs, class Source, class Store>
void window_products(const Correlation &c, const Segment &segment, int64_t group, const float *rows,
                     const Source &source, const Panel &panel, const float *filters, const Store &store) {
  constexpr int64_t at_once = Pairs ? 2 : 1;
  const int64_t width = panel.width(), pitch = c.phases * c.channels / at_once;
  const int64_t begin = source.rows_without_filters(panel) * c.channels / at_once;
  const int64_t end = c.window * c.channels / at_once;
  float sums[kRows * kPanel];
  Vec y[kRows];
  Segment tile = segment;
  for (int64_t first = 0; first < segment.count; first += kRows, tile.first += kRows) {
    tile.count = lesser(kRows, segment.count - first);
    for (int64_t k = begin; k < end; k += kPartTerms) {
      const Operands part{rows + first * pitch + k, pitch, 1,
                          filters + k * width,      width, lesser(kPartTerms, end - k)};
      matrix_product<Pairs>(panel, part, tile.count, k == begin, sums);
    }
    for (int64_t v = 0; v < panel.columns; v += kWidth) {
      for (int64_t i = 0; i < tile.count; ++i) y[i] = load(sums + i * width + v);
      store(tile, group, panel.first + v, y, lesser(kWidth, panel.columns - v));
    }
  }
}

// As `correlate` (correlation.h), of a piece without a transform.
template <bool Pairs, class T, class Source, class Store>
void correlate_directly(const Correlation &c, const Piece &piece, const T *operand, const Source &source,
                        int threads, const Store &store) {
  constexpr int64_t at_once = Pairs ? 2 : 1;
  const int64_t panels = panel_count(c.columns), positions = c.window * c.channels / at_once;
  const int64_t panel_floats = positions * kPanel;
  float *filters = scratch(Scratch::shared, static_cast<std::size_t>(c.groups * panels * panel_floats));
  parallel_for(threads, c.groups * panels, [&](int64_t task) {
    const int64_t group = task / panels;
    window_filters<Pairs, T>(c, piece.set, group, source, source.panel(task % panels),
                             filters + task * panel_floats);
  });
  parallel_for(threads, c.groups * piece.count, [&](int64_t task) {
    const int64_t group = task % c.groups;
    const Segment &segment = piece.segments[task / c.groups];
    const int64_t windows = round_up(segment.count, kRows);
    const int64_t floats = ((windows - 1) * c.phases + c.window) * c.channels / at_once;
    float *rows = scratch(Scratch::own, static_cast<std::size_t>(floats));
    const WindowRows<T> from(c, segment, operand + group * c.channels);
    if constexpr (Pairs)
      copy_windows(from, windows, reinterpret_cast<BFloat16 *>(rows));
    else
      copy_windows(from, windows, rows);
    for (int64_t i = 0; i < panels; ++i)
      window_products<Pairs>(c, segment, group, rows, source, source.panel(i),
                             filters + (group * panels + i) * panel_floats, store);
  });
}

// As `conv_weight_grad` (weight_grad.h), of a piece without a transform: the positions of a window are
// rows of the tile, and its sums go over the windows of a segment.
template <bool Pairs, class T>
void weight_grad_directly(const Conv &conv, const Correlation &c, const Piece &piece, const Run *runs,
                          const T *x, const T *grad_out, const Filters &filters,
                          const FilterGrads &filter_grads, float *packed, int threads) {
  constexpr int64_t at_once = Pairs ? 2 : 1;
  const int64_t panels = panel_count(c.columns), positions = c.window * c.channels;
  const int64_t step = Pairs ? positions : c.phases * c.channels;
  parallel_for(threads, c.groups * panels, [&](int64_t task) {
    const int64_t group = task / panels;
    const Panel panel = panel_at(c.columns, task % panels);
    const int64_t width = panel.width();
    const int64_t row_floats = kDirectRows / at_once * step + positions + kRows;
    float *rows = scratch(Scratch::own, static_cast<std::size_t>(row_floats + kDirectRows / at_once * width));
    float *grads = rows + row_floats, *to = packed_panel(conv, packed, group, panel);
    for (int64_t s = 0; s < piece.count; ++s) {
      const Segment &segment = piece.segments[s];
      const Run &run = runs[segment.run];
      const WindowRows<T> from(c, segment, x + group * c.channels);
      if constexpr (Pairs)
        copy_window_pairs(from, segment.count, rows);
      else
        copy_windows(from, segment.count, rows);
      const int64_t first = run.grad_out_offset + segment.sequence * run.out_rows + segment.first;
      const T *grad = grad_out + first * conv.out_channels + group * conv.out_group() + panel.first;
      for (int64_t i = 0; i < segment.count; i += at_once)
        for (int64_t v = 0; v < width; v += kWidth) {
          const auto read = [&](int64_t row) {
            return row < segment.count && v < panel.columns
                       ? load_lanes(grad + row * conv.out_channels + v, lesser(kWidth, panel.columns - v))
                       : Vec{};
          };
          store(grads + i / at_once * width + v, Pairs ? pairs(read(i), read(i + 1)) : read(i));
        }
      const Operands products{rows, 1, step, grads, width, ceil_div(segment.count, at_once)};
      matrix_product<Pairs>(panel, products, positions, s == 0, to);
    }
    finish_panel(conv, group, panel, to, filters, filter_grads);
  });
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
