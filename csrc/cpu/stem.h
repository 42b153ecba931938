// The stem: its rows are read from the waveform, folded at the period and reflect-padded by address.
// One sequence (a column of the fold) at a time is laid out as a line of floats, so that each row's
// window is a contiguous run of it; the fold itself is never written.
#pragma once

#include "filters.h"
#include "sequences.h"

namespace hifigan {
namespace HIFIGAN_ISA {

constexpr int64_t kStemRows = 96;  // output rows at once

inline int64_t line_floats(const Conv &conv, const Run &run) {
  return (run.out_rows - 1) * conv.stride + conv.taps;
}
inline int64_t longest_line(const Conv &conv, const Run *runs, int64_t run_count) {
  int64_t longest = 1;
  for (int64_t i = 0; i < run_count; ++i)
    if (runs[i].sequences()) longest = greater(longest, line_floats(conv, runs[i]));
  return longest;
}

// Calls body(position in the line, sample) for the line's samples; the rest of the line is padding.
template <class Body>
inline void for_samples(const Conv &conv, const Run &run, int64_t column, const Body &body) {
  const int64_t folded = ceil_div(run.in_rows, run.period);
  const int64_t rows = lesser(folded, line_floats(conv, run) - conv.padding);
  for (int64_t row = 0; row < rows; ++row) {
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

// One set's filters, [panel][tap][column], from the waveform's one channel.
template <class T>
void turn_stem(const Conv &conv, const Filters &filters, float *to) {
  for (int64_t i = 0; i < panel_count(conv.out_channels); ++i) {
    const Panel panel = panel_at(conv.out_channels, i);
    ForwardFilters{conv, &filters}.turn(0, 0, 0, 1, panel, packed_panel(conv, to, 0, panel));
  }
  for (int64_t i = 0; i < packed_floats(conv); i += kWidth) store(to + i, rounded<T>(load(to + i)));
}

template <class T>
void stem_forward(const Conv &conv, const Run *runs, int64_t run_count, const float *waves,
                  const Filters *filters, int64_t sets, const float *bias, T *out, int threads) {
  const int64_t longest = longest_line(conv, runs, run_count) + kRows * conv.stride;
  float *turned = scratch(Scratch::shared, static_cast<std::size_t>(sets * packed_floats(conv)));
  for (int64_t set = 0; set < sets; ++set)
    turn_stem<T>(conv, filters[set], turned + set * packed_floats(conv));
  for_sequences(runs, run_count, threads, [&](const Run &run, int64_t, int64_t sample, int64_t column) {
    const int64_t sequence = sample * run.period + column;
    float *line = scratch(Scratch::own, static_cast<std::size_t>(longest + kStemRows * kPanel));
    float *sums = line + longest;
    lay_line(conv, run, sequence, waves, line);
    for (int64_t first = 0; first < run.out_rows; first += kStemRows) {
      const int64_t count = lesser(kStemRows, run.out_rows - first);
      for (int64_t i = 0; i < panel_count(conv.out_channels); ++i) {
        const Panel panel = panel_at(conv.out_channels, i);
        const float *weights = packed_panel(conv, turned + run.weights * packed_floats(conv), 0, panel);
        matrix_product(panel, {line + first * conv.stride, conv.stride, 1, weights, panel.width(), conv.taps},
                       count, true, sums);
        const float *add = bias + run.weights * conv.out_channels + panel.first;
        T *to = out + (run.out_offset + sequence * run.out_rows + first) * conv.out_channels + panel.first;
        for (int64_t r = 0; r < count; ++r, to += conv.out_channels)
          for (int64_t j = 0; j < panel.columns; j += kWidth) {
            const int64_t lanes = lesser(kWidth, panel.columns - j);
            const Vec v = load(sums + r * panel.width() + j) + load_lanes(add + j, lanes);
            store_lanes(to + j, leaky(v, v, conv.slope), lanes);
          }
      }
    }
  });
}

// A task a set and panel.
template <class T>
void stem_weight_grad(const Conv &conv, const Run *runs, int64_t run_count, int64_t sets, const float *waves,
                      const T *grad_out, const Filters *filters, const FilterGrads *filter_grads,
                      int threads) {
  const int64_t longest = longest_line(conv, runs, run_count) + kRows;
  const int64_t panels = panel_count(conv.out_channels), taps = round_up(conv.taps, kRows);
  parallel_for(threads, sets * panels, [&](int64_t task) {
    const int64_t set = task / panels;
    const Panel panel = panel_at(conv.out_channels, task % panels);
    const int64_t width = panel.width();
    float *line = scratch(Scratch::own, static_cast<std::size_t>(longest + kStemRows * kPanel));
    float *copy = line + longest;
    float *sums = scratch(Scratch::packed, static_cast<std::size_t>(taps * width));
    std::memset(sums, 0, static_cast<std::size_t>(taps * width) * sizeof(float));
    for (int64_t i = 0; i < run_count; ++i) {
      const Run &run = runs[i];
      if (run.weights != set) continue;
      for (int64_t q = 0; q < run.sequences(); ++q) {
        lay_line(conv, run, q, waves, line);
        const T *rows = grad_out + (run.grad_out_offset + q * run.out_rows) * conv.out_channels + panel.first;
        for (int64_t first = 0; first < run.out_rows; first += kStemRows) {
          const int64_t count = lesser(kStemRows, run.out_rows - first);
          for (int64_t r = 0; r < count; ++r, rows += conv.out_channels)
            for (int64_t j = 0; j < panel.columns; j += kWidth)
              store(copy + r * width + j, load_lanes(rows + j, lesser(kWidth, panel.columns - j)));
          matrix_product(panel, {line + first * conv.stride, 1, conv.stride, copy, width, count}, conv.taps,
                         false, sums);
        }
      }
    }
    finish_panel(conv, 0, panel, sums, filters[set], filter_grads[set]);
  });
}

// Adds the gradient of one waveform, as far as `run` sees it: products of grad_out's rows with one
// column a tap are added up along the line, and the line back along the fold. weights: [out channel][tap].
template <class T>
void add_wave_grad(const Conv &conv, const Run &run, int64_t sample, const T *grad_out, const float *weights,
                   float *wave_grad, float *line, float *sums, float *rows) {
  const int64_t padded = round_up(conv.taps, kWidth), channels = conv.out_channels;
  for (int64_t column = 0; column < run.period; ++column) {
    std::memset(line, 0, static_cast<std::size_t>(line_floats(conv, run)) * sizeof(float));
    const int64_t sequence = sample * run.period + column;
    const T *grads = grad_out + (run.grad_out_offset + sequence * run.out_rows) * channels;
    for (int64_t h = 0; h < run.out_rows; h += kStemRows) {
      const int64_t count = lesser(kStemRows, run.out_rows - h);
      for (int64_t i = 0; i < count * channels; i += kWidth)
        store(rows + i, load_lanes(grads + h * channels + i, lesser(kWidth, count * channels - i)));
      for (int64_t tap = 0; tap < conv.taps; tap += kWidth) {
        matrix_product<1>(Operands{rows, channels, 1, weights + tap, padded, channels}, count, true, sums);
        for (int64_t r = 0; r < count; ++r)
          for (int64_t t = tap; t < lesser(conv.taps, tap + kWidth); ++t)
            line[(h + r) * conv.stride + t] += sums[r * kWidth + t - tap];
      }
    }
    for_samples(conv, run, column, [&](int64_t at, int64_t index) { wave_grad[index] += line[at]; });
  }
}

// grad_waves (zeroed by the caller) gets every run's gradient; runs of one waveform are added in
// order by one task, so no two tasks write the same sample.
template <class T>
void stem_input_grad(const Conv &conv, const Run *runs, int64_t run_count, const T *grad_out,
                     const Filters *filters, int64_t sets, float *grad_waves, int threads) {
  const int64_t longest = longest_line(conv, runs, run_count), padded = round_up(conv.taps, kWidth);
  float *turned = scratch(Scratch::shared, static_cast<std::size_t>(sets * conv.out_channels * padded));
  for (int64_t set = 0; set < sets; ++set)
    for (int64_t o = 0; o < conv.out_channels; ++o)
      for (int64_t t = 0; t < padded; ++t)
        turned[(set * conv.out_channels + o) * padded + t] =
            t < conv.taps ? rounded<T>(filters[set].raw[o * conv.taps + t] * filters[set].scale[o]) : 0.0f;
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
    const int64_t row_floats = round_up(kStemRows * conv.out_channels, kWidth);
    float *line = scratch(Scratch::own, static_cast<std::size_t>(longest + kStemRows * kWidth + row_floats));
    float *sums = line + longest, *rows = sums + kStemRows * kWidth;
    for (int64_t i = lead; i < run_count; ++i)
      if (runs[i].in_offset == runs[lead].in_offset)
        add_wave_grad(conv, runs[i], sample, grad_out, turned + runs[i].weights * conv.out_channels * padded,
                      grad_waves + runs[i].in_offset + sample * runs[i].in_rows, line, sums, rows);
  });
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
