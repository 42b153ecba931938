// Convolution forward and input gradient: an overlapped-row product each, and their epilogues.
#pragma once

#include "product.h"

namespace hifigan {
namespace HIFIGAN_ISA {

// The forward epilogue: out = leaky(sums + bias) for `count` rows of one panel.
inline void store_activations(const Conv &conv, const Panel &panel, const float *sums, const float *bias,
                              float *out, int64_t count) {
  const int64_t width = vectors(panel.columns) * kWidth;
  for (int64_t r = 0; r < count; ++r, out += conv.out_channels) {
    for (int64_t j = 0; j < panel.columns; j += kWidth) {
      const int64_t left = panel.columns - j;
      const Vec sum = load(sums + r * width + j);
      if (left >= kWidth) {
        const Vec v = sum + load(bias + j);
        store(out + j, leaky(v, v, conv.slope));
      } else {
        const Vec v = sum + load_partial(bias + j, left);
        store_partial(out + j, leaky(v, v, conv.slope), left);
      }
    }
  }
}

// out = leaky(conv(x) + bias). `bias` holds one set after another.
inline void conv_forward(const Conv &conv, const Product &p, const Run *runs, int64_t run_count,
                         const Piece *pieces, const float *bias, float *out, int threads) {
  multiply(
      p, pieces, run_count, threads,
      [&](int64_t index, int64_t group, const Panel &panel, int64_t first, int64_t count, const float *sums) {
        const int64_t channel = group * conv.out_group() + panel.first_column;
        store_activations(conv, panel, sums, bias + runs[index].weights * conv.out_channels + channel,
                          out + (runs[index].out_offset + first) * conv.out_channels + channel, count);
      });
}

// grad_in = (convᵀ(grad_out) + map_grad) · leaky'(saved): a product row is `stride` input rows, its
// columns are (phase, input channel). map_grads has a pointer or null per run.
inline void conv_input_grad(const Conv &conv, float slope, const Product &p, const Run *runs,
                            int64_t run_count, const Piece *pieces, const float *saved,
                            const float *const *map_grads, float *grad_in, int threads) {
  const int64_t channels = conv.in_channels, in_group = conv.in_group();
  multiply(
      p, pieces, run_count, threads,
      [&](int64_t index, int64_t group, const Panel &panel, int64_t first, int64_t count, const float *sums) {
        const Run &run = runs[index];
        const float *mask = saved + run.in_offset * channels;
        const float *extra = map_grads[index];
        float *grad = grad_in + run.grad_in_offset * channels;
        const int64_t width = vectors(panel.columns) * kWidth;
        const int64_t rows = ceil_div(run.in_rows, conv.stride);
        for (int64_t r = 0; r < count; ++r) {
          const int64_t sequence = (first + r) / rows, q = (first + r) % rows;
          for (int64_t j = 0; j < panel.columns;) {
            const int64_t column = panel.first_column + j;
            const int64_t row = q * conv.stride + column / in_group;
            const int64_t c = column % in_group;
            // up to the end of the phase, of the vector, and of the panel
            const int64_t n = lesser(lesser(in_group - c, kWidth), panel.columns - j);
            if (row < run.in_rows) {
              const int64_t at = (sequence * run.in_rows + row) * channels + group * in_group + c;
              const float *s = sums + r * width + j;
              if (n == kWidth) {
                Vec v = load(s);
                if (extra) v += load(extra + at);
                store(grad + at, leaky(v, load(mask + at), slope));
              } else {
                for (int64_t i = 0; i < n; ++i)
                  grad[at + i] = leaky(s[i] + (extra ? extra[at + i] : 0.0f), mask[at + i], slope);
              }
            }
            j += n;
          }
        }
      });
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
