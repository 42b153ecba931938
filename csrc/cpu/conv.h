// Convolution forward and input gradient: a correlation each, and their epilogues.
#pragma once

#include "correlation.h"
#include "filters.h"

namespace hifigan {
namespace HIFIGAN_ISA {

// out = leaky(conv(x) + bias). `bias` holds one set after another. False as `correlate` is.
template <class T>
bool conv_forward(const Conv &conv, const Correlation &c, const Piece *pieces, int64_t piece_count,
                  const Run *runs, const T *x, const Filters *filters, const float *bias, T *out,
                  int threads) {
  return correlate(
      c, pieces, piece_count, x, ForwardFilters{conv, filters}, threads,
      [&](const Segment &s, int64_t group, int64_t column, const Vec *y, int64_t lanes) {
        const Run &run = runs[s.run];
        const int64_t channel = group * conv.out_group() + column;
        const Vec add = load_partial(bias + run.weights * conv.out_channels + channel, lanes);
        T *to = out + (run.out_offset + s.sequence * run.out_rows + s.first) * conv.out_channels + channel;
        for (int64_t i = 0; i < s.count; ++i, to += conv.out_channels) {
          const Vec v = y[i] + add;
          store_lanes(to, leaky(v, v, conv.slope), lanes);
        }
      });
}

// grad_in = (convᵀ(grad_out) + map_grad) · leaky'(saved): an output row is `stride` input rows, its
// columns are (phase, input channel). There is a map_grad per run.
template <class T>
bool conv_input_grad(const Conv &conv, float slope, const Correlation &c, const Piece *pieces,
                     int64_t piece_count, const Run *runs, const T *grad_out, const Filters *filters,
                     const T *saved, const MapGrad<T> *map_grads, T *grad_in, int threads) {
  const int64_t channels = conv.in_channels, in_group = conv.in_group();
  const int64_t skipped = conv.padding / conv.stride;  // output rows that have no input row
  return correlate(c, pieces, piece_count, grad_out, InputGradFilters{conv, filters}, threads,
                   [&](const Segment &s, int64_t group, int64_t column, const Vec *y, int64_t lanes) {
                     const Run &run = runs[s.run];
                     const T *mask = saved + run.in_offset * channels;
                     const MapGrad<T> extra = map_grads[s.run];
                     T *grad = grad_in + run.grad_in_offset * channels;
                     for (int64_t done = 0; done < lanes;) {  // up to the end of a phase
                       const int64_t phase = (column + done) / in_group, channel = (column + done) % in_group;
                       const int64_t n = lesser(in_group - channel, lanes - done);
                       for (int64_t i = 0; i < s.count; ++i) {
                         const int64_t row = conv.stride * (s.first + i + skipped) + phase - conv.padding;
                         if (row < 0 || row >= run.in_rows) continue;
                         const int64_t at =
                             (s.sequence * run.in_rows + row) * channels + group * in_group + channel;
                         Vec v = load_lanes(reinterpret_cast<const float *>(y + i) + done, n);
                         const Vec own = load_lanes(mask + at, n);
                         if (extra.at) v += added(extra, at, own, n);
                         store_lanes(grad + at, leaky(v, own, slope), n);
                       }
                       done += n;
                     }
                   });
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
