// The head: one output channel, so each output is a dot product and nothing can be tiled. Its output
// is H-major, [samples, rows, period], so that the logits are a view of it. Weights are [taps][channels].
#pragma once

#include "filters.h"
#include "sequences.h"

namespace hifigan {
namespace HIFIGAN_ISA {

// The filters, [set][tap][channel], in memory of the calling thread.
template <class T>
const float *turn_head(const Conv &conv, const Filters *filters, int64_t sets) {
  float *turned = scratch(Scratch::shared, static_cast<std::size_t>(sets * conv.taps * conv.in_channels));
  for (int64_t set = 0, i = 0; set < sets; ++set)
    for (int64_t t = 0; t < conv.taps; ++t)
      for (int64_t c = 0; c < conv.in_channels; ++c)
        turned[i++] = rounded<T>(filters[set].raw[c * conv.taps + t] * filters[set].scale[0]);
  return turned;
}

// Where output row h of a sequence lies in the H-major buffer.
inline int64_t head_row(const Run &run, int64_t sample, int64_t column, int64_t h) {
  return (sample * run.out_rows + h) * run.period + column;
}

template <class T>
void head_forward(const Conv &conv, const Run *runs, int64_t run_count, const T *x, const Filters *filters,
                  int64_t sets, const float *bias, T *out, int threads) {
  const float *weights = turn_head<T>(conv, filters, sets);
  const int64_t channels = conv.in_channels;
  for_sequences(runs, run_count, threads, [&](const Run &run, int64_t, int64_t sample, int64_t column) {
    const T *rows = x + (run.in_offset + (sample * run.period + column) * run.in_rows) * channels;
    const float *w = weights + run.weights * conv.taps * channels;
    for (int64_t h = 0; h < run.out_rows; ++h) {
      float total = bias[run.weights];
      for (int64_t t = 0; t < conv.taps; ++t) {
        const int64_t row = h * conv.stride + t - conv.padding;
        if (row >= 0 && row < run.in_rows) total += dot(rows + row * channels, w + t * channels, channels);
      }
      out[run.out_offset + head_row(run, sample, column, h)] = element<T>(leaky(total, total, conv.slope));
    }
  });
}

template <class T>
void head_input_grad(const Conv &conv, float slope, const Run *runs, int64_t run_count, const T *grad_out,
                     const Filters *filters, int64_t sets, const T *saved, const MapGrad<T> *map_grads,
                     T *grad_in, int threads) {
  const float *weights = turn_head<T>(conv, filters, sets);
  const int64_t channels = conv.in_channels;
  for_sequences(runs, run_count, threads, [&](const Run &run, int64_t index, int64_t sample, int64_t column) {
    const int64_t first = (sample * run.period + column) * run.in_rows * channels;
    const T *mask = saved + run.in_offset * channels + first;
    const MapGrad<T> extra = map_grads[index];
    const float *w = weights + run.weights * conv.taps * channels;
    const T *grads = grad_out + run.grad_out_offset;
    T *grad = grad_in + run.grad_in_offset * channels + first;
    for (int64_t row = 0; row < run.in_rows; ++row) {
      const int64_t at = row * channels;
      for (int64_t c = 0; c < channels; c += kWidth) {
        const int64_t left = lesser(kWidth, channels - c);
        const Vec own = load_lanes(mask + at + c, left);
        Vec total = extra.at ? added(extra, first + at + c, own, left) : Vec{};
        for (int64_t t = 0; t < conv.taps; ++t) {
          const int64_t position = row + conv.padding - t;
          const int64_t h = position / conv.stride;
          if (position < 0 || position % conv.stride || h >= run.out_rows) continue;
          total += number(grads[head_row(run, sample, column, h)]) * load_lanes(w + t * channels + c, left);
        }
        store_lanes(grad + at + c, leaky(total, own, slope), left);
      }
    }
  });
}

template <class T>
void head_weight_grad(const Conv &conv, const Run *runs, int64_t run_count, int64_t sets, const T *x,
                      const T *grad_out, const Filters *filters, const FilterGrads *filter_grads,
                      int threads) {
  constexpr int64_t wide = 4 * kWidth;
  const int64_t channels = conv.in_channels, blocks = ceil_div(channels, wide);
  parallel_for(threads, sets * conv.taps * blocks, [&](int64_t task) {
    const int64_t c = task % blocks * wide, tap = task / blocks % conv.taps;
    const int64_t set = task / blocks / conv.taps, columns = lesser(wide, channels - c);
    float total[wide] = {};
    for (int64_t i = 0; i < run_count; ++i) {
      const Run &run = runs[i];
      if (run.weights != set) continue;
      for (int64_t q = 0; q < run.sequences(); ++q) {
        float part[wide] = {};
        for (int64_t h = 0; h < run.out_rows; ++h) {
          const int64_t row = h * conv.stride + tap - conv.padding;
          if (row < 0 || row >= run.in_rows) continue;
          const float g =
              number(grad_out[run.grad_out_offset + head_row(run, q / run.period, q % run.period, h)]);
          const T *values = x + (run.in_offset + q * run.in_rows + row) * channels + c;
          for (int64_t j = 0; j < columns; ++j) part[j] += g * number(values[j]);
        }
        for (int64_t j = 0; j < columns; ++j) total[j] += part[j];
      }
    }
    for (int64_t j = 0; j < columns; ++j) filter_grads[set].raw[(c + j) * conv.taps + tap] = total[j];
  });
  for (int64_t set = 0; set < sets; ++set) finish_rows(conv, filters[set], filter_grads[set], 0, 1);
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
