// The blocking of an overlapped-row product: forward passes and input gradients.
#pragma once

#include "tile.h"

namespace hifigan {
namespace HIFIGAN_ISA {

constexpr int kBlockRows = 8 * kRows;            // rows whose partial sums stay in the nearest cache
constexpr int64_t kBlockDepth = 128;             // products that one chain of roundings may have
constexpr int64_t kChunkRows = 16 * kBlockRows;  // rows of one task

// Where the window of each row of a block lies in the operand.
struct Rows {
  int64_t count;
  int64_t offset[kBlockRows];                 // first float of window position 0
  int64_t low[kBlockRows], high[kBlockRows];  // window positions inside the sequence

  // Rows first ... first + count - 1 of sequences that have `rows` product rows and `operand_rows`.
  void locate(const Product &p, int64_t first, int64_t n, int64_t rows, int64_t operand_rows) {
    count = n;
    int64_t sequence = first / rows, row = first % rows;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t start = row * p.step;
      offset[i] = (sequence * operand_rows + start) * p.row_channels;
      low[i] = -start;
      high[i] = operand_rows - start;
      if (++row == rows) row = 0, ++sequence;
    }
    for (int64_t i = n; i < ceil_div(n, kRows) * kRows; ++i) {  // computed again, never stored
      offset[i] = offset[n - 1], low[i] = low[n - 1], high[i] = high[n - 1];
    }
  }
};

// A part of the window: positions from ... to - 1, and of each some channels.
struct Part {
  int64_t from, to, channel, channels;
};

// Sums a part of the window into a tile. `zeros` stands for rows outside the sequence.
template <int NV>
inline void sum_part(Tile<NV> &tile, const Product &p, const Rows &rows, int64_t row, const float *operand,
                     const float *weights, const Part &part, const float *zeros) {
  tile.zero();
  const float *a[kRows];
  bool inside = true;
  for (int r = 0; r < kRows; ++r) {
    a[r] = operand + rows.offset[row + r] + part.from * p.row_channels + part.channel;
    inside &= rows.low[row + r] <= part.from && part.to <= rows.high[row + r];
  }
  constexpr int64_t width = NV * kWidth;
  if (inside && part.channels == p.row_channels) {  // the part is one contiguous run
    multiply_add<NV>(tile, a, 1, weights, width, (part.to - part.from) * part.channels);
    return;
  }
  for (int64_t d = part.from; d < part.to; ++d, weights += p.group_channels * width) {
    if (!inside) {
      bool any = false;
      for (int r = 0; r < kRows; ++r) {
        const bool valid = rows.low[row + r] <= d && d < rows.high[row + r];
        a[r] = valid ? operand + rows.offset[row + r] + d * p.row_channels + part.channel : zeros;
        any |= valid;
      }
      if (!any) continue;
    }
    multiply_add<NV>(tile, a, 1, weights, width, part.channels);
    if (inside)
      for (int r = 0; r < kRows; ++r) a[r] += p.row_channels;
  }
}

// One panel of columns over one block of rows; sums are left in `sums`, tile after tile. Parts of about
// kBlockDepth products are summed apart: their weights stay in the first cache, and their roundings
// do not pile up.
template <int NV>
void block(const Product &p, const Panel &panel, const Rows &rows, const float *operand, const float *weights,
           const float *zeros, float *sums) {
  const int64_t taps = greater(1, kBlockDepth / p.group_channels);
  const int64_t last = panel.first + panel.taps;
  bool fresh = true;
  for (int64_t from = panel.first; fresh || from < last; from += taps) {
    for (int64_t channel = 0; channel < p.group_channels; channel += kBlockDepth) {
      const Part part{from, lesser(last, from + taps), channel,
                      lesser(kBlockDepth, p.group_channels - channel)};
      const float *w = weights + ((from - panel.first) * p.group_channels + channel) * NV * kWidth;
      for (int64_t row = 0; row < rows.count; row += kRows) {
        float *partial = sums + row * NV * kWidth;
        Tile<NV> tile;
        sum_part<NV>(tile, p, rows, row, operand, w, part, zeros);
        if (!fresh) tile.add(partial);
        tile.write(partial);
      }
      fresh = false;
    }
  }
}

// Calls store(piece, group, panel, first row, rows, sums) for every block of the product.
template <class Store>
void multiply(const Product &p, const Piece *pieces, int64_t piece_count, int threads, const Store &store) {
  const int64_t columns = p.groups * p.panel_count;
  int64_t tasks = 0;
  for (int64_t i = 0; i < piece_count; ++i)
    tasks += ceil_div(pieces[i].sequences * pieces[i].rows, kChunkRows) * columns;
  parallel_for(threads, tasks, [&](int64_t task) {
    int64_t index = 0;
    for (;; ++index) {
      const int64_t here = ceil_div(pieces[index].sequences * pieces[index].rows, kChunkRows) * columns;
      if (task < here) break;
      task -= here;
    }
    const Piece &piece = pieces[index];
    const int64_t chunk = task / columns, group = task % columns / p.panel_count;
    const Panel &panel = p.panels[task % p.panel_count];
    const int64_t end = lesser(piece.sequences * piece.rows, (chunk + 1) * kChunkRows);
    float *zeros = scratch(static_cast<std::size_t>(p.group_channels + kBlockRows * kPanel));
    float *sums = zeros + p.group_channels;
    std::memset(zeros, 0, static_cast<std::size_t>(p.group_channels) * sizeof(float));
    const float *operand = piece.operand + group * p.group_channels;
    const float *weights = piece.weights + group * p.group_floats + panel.weights;
    for (int64_t first = chunk * kChunkRows; first < end; first += kBlockRows) {
      Rows rows;
      rows.locate(p, first, lesser(kBlockRows, end - first), piece.rows, piece.operand_rows);
      if (vectors(panel.columns) == 2)
        block<2>(p, panel, rows, operand, weights, zeros, sums);
      else
        block<1>(p, panel, rows, operand, weights, zeros, sums);
      store(index, group, panel, first, rows.count, sums);
    }
  });
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
