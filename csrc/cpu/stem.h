// The stem: its rows are read from the waveform, folded at the period and reflect-padded by address.
// One sequence (a column of the fold) at a time is laid out as a line of floats, so that each row's
// window is a contiguous run of it; the fold itself is never written.
#pragma once

#include "conv.h"
#include "weight_grad.h"

namespace hifigan {
namespace HIFIGAN_ISA {

inline int64_t line_floats(const Conv &conv, const Run &run) {
  return (run.out_rows - 1) * conv.stride + conv.taps;
}
inline int64_t longest_line(const Conv &conv, const Run *runs, int64_t run_count) {
  int64_t longest = 1;
  for (int64_t i = 0; i < run_count; ++i) longest = greater(longest, line_floats(conv, runs[i]));
  return longest;
}

// Calls body(position in the line, sample) for the line's samples; the rest of the line is padding.
template <class Body>
inline void for_samples(const Conv &conv, const Run &run, int64_t column, const Body &body) {
  const int64_t folded = ceil_div(run.in_rows, run.period);
  const int64_t rows = lesser(folded, line_floats(conv, run) - conv.padding);
  for (int64_t row = greater(0, -conv.padding); row < rows; ++row) {
    const int64_t sample = row * run.period + column;
    body(row + conv.padding, sample < run.in_rows ? sample : 2 * (run.in_rows - 1) - sample);
  }
}

inline const float *lay_line(const Conv &conv, const Run &run, int64_t sequence, const float *waves,
                             float *line) {
  const float *wave = waves + run.in_offset + sequence / run.period * run.in_rows;
  std::memset(line, 0, static_cast<std::size_t>(line_floats(conv, run)) * sizeof(float));
  for_samples(conv, run, sequence % run.period, [&](int64_t at, int64_t sample) { line[at] = wave[sample]; });
  return line;
}

inline void stem_forward(const Conv &conv, const Product &p, const Run *runs, int64_t run_count,
                         const Piece *pieces, const float *waves, const float *bias, float *out,
                         int threads) {
  const int64_t longest = longest_line(conv, runs, run_count);
  int64_t tasks = 0;
  for (int64_t i = 0; i < run_count; ++i) tasks += runs[i].sequences();
  parallel_for(threads, tasks, [&](int64_t sequence) {
    int64_t index = 0;
    for (; sequence >= runs[index].sequences(); ++index) sequence -= runs[index].sequences();
    const Run &run = runs[index];
    float *line = scratch(static_cast<std::size_t>(longest + kBlockRows * kPanel));
    float *sums = line + longest;
    lay_line(conv, run, sequence, waves, line);
    for (int64_t first = 0; first < run.out_rows; first += kBlockRows) {
      Rows rows;
      rows.locate(p, first, lesser(kBlockRows, run.out_rows - first), run.out_rows, line_floats(conv, run));
      float *row = out + (run.out_offset + sequence * run.out_rows + first) * conv.out_channels;
      for (int64_t i = 0; i < p.panel_count; ++i) {
        const Panel &panel = p.panels[i];
        const float *weights = pieces[index].weights + panel.weights;
        if (vectors(panel.columns) == 2)
          block<2>(p, panel, rows, line, weights, nullptr, sums);
        else
          block<1>(p, panel, rows, line, weights, nullptr, sums);
        store_activations(conv, panel, sums, bias + run.weights * conv.out_channels + panel.first_column,
                          row + panel.first_column, rows.count);
      }
    }
  });
}

inline void stem_weight_grad(const Conv &conv, const Product &p, const Run *runs, int64_t run_count,
                             int64_t sets, const float *waves, const float *grad_out, float *grad_weights,
                             int threads) {
  Conv on_line = conv;
  on_line.padding = 0;
  weight_grad(on_line, p, runs, run_count, sets, grad_out, grad_weights, threads,
              longest_line(conv, runs, run_count),
              [&](const Run &run, int64_t q, float *line) { return lay_line(conv, run, q, waves, line); });
}

// Adds the gradient of one waveform, as far as `run` sees it. The product `p` has one row a row of
// grad_out and one column a tap; its sums are then added up along the line and back along the fold.
inline void add_wave_grad(const Conv &conv, const Product &p, const Run &run, const Piece &piece,
                          int64_t sample, float *wave_grad, float *line, float *sums) {
  for (int64_t column = 0; column < run.period; ++column) {
    std::memset(line, 0, static_cast<std::size_t>(line_floats(conv, run)) * sizeof(float));
    const int64_t sequence = sample * run.period + column;
    const float *grads = piece.operand + sequence * run.out_rows * conv.out_channels;
    for (int64_t first = 0; first < run.out_rows; first += kBlockRows) {
      Rows rows;
      rows.locate(p, first, lesser(kBlockRows, run.out_rows - first), run.out_rows, run.out_rows);
      for (int64_t i = 0; i < p.panel_count; ++i) {
        const Panel &panel = p.panels[i];
        const int64_t width = vectors(panel.columns) * kWidth;
        if (width == kPanel)
          block<2>(p, panel, rows, grads, piece.weights + panel.weights, nullptr, sums);
        else
          block<1>(p, panel, rows, grads, piece.weights + panel.weights, nullptr, sums);
        for (int64_t r = 0; r < rows.count; ++r)
          for (int64_t t = 0; t < panel.columns; ++t)
            line[(first + r) * conv.stride + panel.first_column + t] += sums[r * width + t];
      }
    }
    for_samples(conv, run, column, [&](int64_t at, int64_t index) { wave_grad[index] += line[at]; });
  }
}

// grad_waves (zeroed by the caller) gets every run's gradient; runs of one waveform are added in
// order by one task, so no two tasks write the same sample.
inline void stem_input_grad(const Conv &conv, const Product &p, const Run *runs, int64_t run_count,
                            const Piece *pieces, float *grad_waves, int threads) {
  const int64_t longest = longest_line(conv, runs, run_count);
  const auto leads = [&](int64_t i) {  // the first run of its waveforms
    for (int64_t j = 0; j < i; ++j)
      if (runs[j].in_offset == runs[i].in_offset) return false;
    return true;
  };
  int64_t tasks = 0;
  for (int64_t i = 0; i < run_count; ++i) tasks += leads(i) ? runs[i].samples : 0;
  parallel_for(threads, tasks, [&](int64_t sample) {
    int64_t lead = 0;
    for (;; ++lead) {
      const int64_t here = leads(lead) ? runs[lead].samples : 0;
      if (sample < here) break;
      sample -= here;
    }
    float *line = scratch(static_cast<std::size_t>(longest + kBlockRows * kPanel));
    for (int64_t i = lead; i < run_count; ++i)
      if (runs[i].in_offset == runs[lead].in_offset)
        add_wave_grad(conv, p, runs[i], pieces[i], sample,
                      grad_waves + runs[i].in_offset + sample * runs[i].in_rows, line, line + longest);
  });
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
