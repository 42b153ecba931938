// Weight and bias gradients: the transposed correlation, whose taps are the rows of grad_out. All sums
// are taken in an order that does not depend on the thread count.
#pragma once

#include "correlation.h"
#include "filters.h"

namespace hifigan {
namespace HIFIGAN_ISA {

constexpr int64_t kGradPositions = 6 * kRows;  // positions whose sums lie in the nearest caches at once

// One panel's rows of grad_out, transformed: [product][segment or pair][column].
template <bool Pairs, class T>
void transform_grads(const Conv &conv, const Chunk &chunk, const Run *runs, const T *grad_out, int64_t group,
                     const Panel &panel, float *to) {
  constexpr int64_t at_once = Pairs ? 2 : 1;
  const Piece &piece = chunk.piece;
  const int64_t width = panel.width(), products = chunk.shared.products;
  const int64_t pitch = staggered(ceil_div(chunk.count, at_once) * width);
  Vec g[kLongestTransform];
  float one[kMostProducts * kWidth], other[kMostProducts * kWidth];
  const auto transform = [&](int64_t s, int64_t v, float *at, int64_t step) {
    const int64_t rows = s < chunk.count ? chunk.segments[s].count : 0;
    const Segment &segment = chunk.segments[lesser(s, chunk.count - 1)];
    const Run &run = runs[segment.run];
    const int64_t row = run.grad_out_offset + segment.sequence * run.out_rows + segment.first;
    const T *grads = grad_out + row * conv.out_channels + group * conv.out_group() + panel.first + v;
    const int64_t taps = greater(rows, piece.outputs()), lanes = lesser(kWidth, panel.columns - v);
    for (int64_t i = 0; i < rows; ++i) g[i] = load_lanes(grads + i * conv.out_channels, lanes);
    for (int64_t i = rows; i < taps; ++i) g[i] = Vec{};
    kTransformers[piece.transform].right(g, taps, at, step);
  };
  for (int64_t s = 0; s < chunk.count; s += at_once)
    for (int64_t v = 0; v < width; v += kWidth) {
      float *at = to + s / at_once * width + v;
      if constexpr (Pairs) {
        transform(s, v, one, kWidth);
        transform(s + 1, v, other, kWidth);
        store_pairs(one, other, products, at, pitch);
      } else {
        transform(s, v, at, pitch);
      }
    }
}

// Adds the sums of a part's positions first ... first + count - 1, transformed back, to a packed panel.
inline void add_taps(const Conv &conv, const Correlation &c, const Piece &piece, const Part &part,
                     int64_t first, int64_t count, int64_t width, const float *sums, bool fresh,
                     float *grad) {
  Vec y[kLongestTransform];
  for (int64_t k = 0; k < count; ++k) {
    const int64_t channel = part.channel + (first + k) % part.channels, at = (first + k) / part.channels;
    const int64_t block = part.block + at / c.phases, phase = at % c.phases;
    for (int64_t v = 0; v < width; v += kWidth) {
      kTransformers[piece.transform].inverse(sums + k * width + v, staggered(kGradPositions * width),
                                             piece.outputs(), piece.block_taps, y);
      for (int64_t j = 0; j < piece.block_taps; ++j) {
        const int64_t tap = (piece.first_tap + block * piece.block_taps + j) * conv.stride + phase;
        if (tap >= conv.taps) break;
        float *to = grad + (tap * conv.in_group() + channel) * width + v;
        store(to, fresh ? y[j] : y[j] + load(to));
      }
    }
  }
}

// Gradients of the raw weights of every set that has a piece.
template <class T>
void conv_weight_grad(const Conv &conv, const Correlation &c, const Piece *pieces, int64_t piece_count,
                      const Run *runs, const T *x, const T *grad_out, const Filters *filters,
                      const FilterGrads *filter_grads, int threads) {
  constexpr bool pairs = kHasPairs && sizeof(T) == sizeof(BFloat16);
  constexpr int64_t at_once = pairs ? 2 : 1;
  float *packed = scratch(Scratch::packed, static_cast<std::size_t>(packed_floats(conv)));
  const auto body = [&](const Chunk &chunk, const Parts &parts) {
    const Piece &piece = chunk.piece;
    const Shared &shared = chunk.shared;
    const int64_t products = shared.products, panels = panel_count(c.columns);
    const int64_t rows = ceil_div(chunk.count, at_once);
    const ForwardFilters forward{conv, filters};
    parallel_for(threads, chunk.groups * panels, [&](int64_t task) {
      const int64_t g = task / panels, group = chunk.first_group + g;
      const Panel panel = panel_at(c.columns, task % panels);
      const int64_t width = panel.width(), grad_floats = staggered(rows * width);
      const int64_t sum_floats = staggered(kGradPositions * width);
      float *grads = scratch(Scratch::own, static_cast<std::size_t>(products * (grad_floats + sum_floats)));
      float *sums = grads + products * grad_floats;
      transform_grads<pairs>(conv, chunk, runs, grad_out, group, panel, grads);
      float *to = packed_panel(conv, packed, group, panel);
      if (chunk.first && piece.blocks * piece.block_taps < c.taps)  // taps that meet padding only
        std::memset(to, 0, static_cast<std::size_t>(packed_positions(conv) * width) * sizeof(float));
      for (int64_t index = 0; index < parts.count(); ++index) {
        const Part part = parts.at(index);
        const bool last = part.has_last_tap(c, piece);
        const int64_t most =
            round_up(ceil_div(part.positions, ceil_div(part.positions, kGradPositions)), kRows);
        for (int64_t first = 0; first < part.positions; first += most) {
          const int64_t count = lesser(most, part.positions - first);
          for (int64_t p = 0; p < products; ++p) {
            // Sums that only taps which are not there would need are left as they are.
            const int64_t needed = forward.needed(piece, p, panel, part.channels, part.positions, last);
            const int64_t wanted = lesser(count, greater(0, needed - first));
            for (int64_t s = 0; s < rows; s += kPartTerms) {
              const float *a = shared.group(g) + p * shared.product_floats() + shared.rows * part.offset +
                               s * part.pitch + first;
              const float *b = grads + p * grad_floats + s * width;
              matrix_product<pairs>(panel, {a, 1, part.pitch, b, width, lesser(kPartTerms, rows - s)}, wanted,
                                    s == 0, sums + p * sum_floats);
            }
          }
          add_taps(conv, c, piece, part, first, count, width, sums, chunk.first, to);
        }
      }
      if (chunk.last) finish_panel(conv, group, panel, to, filters[piece.set], filter_grads[piece.set]);
    });
  };
  for (int64_t i = 0; i < piece_count; ++i) {
    const Piece &piece = pieces[i];
    if (piece.transform == kDirect)
      weight_grad_directly<pairs>(conv, c, piece, runs, x, grad_out, filters[piece.set],
                                  filter_grads[piece.set], packed, threads);
    else
      for_chunks<pairs ? Pairing::segments : Pairing::none>(c, piece, x, threads, body);
  }
}

// grad_bias[set][channel] = the sum of grad_out over the set's rows.
template <class T>
void bias_grad(const Conv &conv, const Run *runs, int64_t run_count, int64_t sets, const T *grad_out,
               float *grad_bias, int threads) {
  constexpr int64_t at_once = 128;  // sums of sums: less rounding
  const int64_t blocks = ceil_div(conv.out_channels, kPanel);
  parallel_for(threads, sets * blocks, [&](int64_t task) {
    const int64_t set = task / blocks;
    const Panel panel = panel_at(conv.out_channels, task % blocks);
    const int64_t near = lesser(kWidth, panel.columns), far = panel.columns - near;
    Vec total[2] = {};
    for (int64_t i = 0; i < run_count; ++i) {
      const Run &run = runs[i];
      if (run.weights != set) continue;
      const T *row = grad_out + run.grad_out_offset * conv.out_channels + panel.first;
      const int64_t count = run.sequences() * run.out_rows;
      for (int64_t first = 0; first < count; first += at_once) {
        Vec part[2] = {};
        for (int64_t r = first; r < lesser(count, first + at_once); ++r, row += conv.out_channels) {
          part[0] += load_lanes(row, near);
          if (far) part[1] += load_lanes(row + kWidth, far);
        }
        total[0] += part[0];
        total[1] += part[1];
      }
    }
    float *to = grad_bias + set * conv.out_channels + panel.first;
    store_lanes(to, total[0], near);
    if (far) store_lanes(to + kWidth, total[1], far);
  });
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
