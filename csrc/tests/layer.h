// One layer, all that its calls touch, and the calls.
#pragma once

#include "../cpu/plan.h"
#include "buffers.h"

namespace hifigan {

enum class Role { stem, conv, head };

// One run: its set of weights, and how much of it there is. A stem has rows of the fold.
struct Size {
  int64_t set, samples, period, rows;
};

// Of a stem's `rows` rows, every other run's last one is mirrored as far as may be.
inline int64_t waveform(const Size &size, std::size_t index) {
  const int64_t whole = size.rows * size.period;
  return index % 2 ? whole : std::max(whole - size.period + 1, whole / 2 + 1);
}

// Everything that the calls of one layer touch.
template <class T>
struct Layer {
  const MapKernels<T> &kernels;
  Conv conv;
  int threads;
  int64_t sets = 0;
  std::vector<Run> runs;
  std::vector<int64_t> ins, outs;  // rows of each run; of a stem, samples
  std::vector<Floats> raw, scale, norms, grad_raw, inner;
  std::vector<std::vector<T>> map_grads;
  std::vector<Filters> filters;
  std::vector<FilterGrads> grads;
  std::vector<MapGrad<T>> extra;
  std::vector<bool> used;  // sets
  Floats bias, grad_bias;

  Layer(const MapKernels<T> &of, const Conv &layer, Role role, const std::vector<Size> &sizes, int on)
      : kernels(of), conv(layer), threads(on) {
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const Size &s = sizes[i];
      const int64_t out_rows = (s.rows + 2 * conv.padding - conv.taps) / conv.stride + 1;
      const int64_t in_rows = role == Role::stem ? waveform(s, i) : s.rows;
      runs.push_back({s.set, s.samples, s.period, in_rows, out_rows, 0, 0, 0, 0});
      ins.push_back(s.samples * in_rows * (role == Role::stem ? 1 : s.period));
      outs.push_back(s.samples * s.period * out_rows);
      map_grads.push_back(noise<T>(ins[i] * conv.in_channels));
      sets = std::max(sets, s.set + 2);  // the last has no run
    }
    used.resize(static_cast<std::size_t>(sets));
    for (std::size_t i = 0; i < runs.size(); ++i) {
      extra.push_back({i % 2 ? nullptr : map_grads[i].data(), i % 4 == 2, 0.5f});
      if (runs[i].sequences()) used[static_cast<std::size_t>(runs[i].weights)] = true;
    }
    for (int64_t set = 0; set < sets; ++set) {
      raw.push_back(noise(conv.filter_floats()));
      scale.push_back(noise(conv.out_channels));
      norms.push_back(Floats(static_cast<std::size_t>(conv.out_channels), 0.5f));
      grad_raw.push_back(unwritten(conv.filter_floats()));
      inner.push_back(unwritten(conv.out_channels));
    }
    for (std::size_t set = 0; set < raw.size(); ++set) {
      filters.push_back({raw[set].data(), scale[set].data()});
      grads.push_back({set % 2 ? nullptr : norms[set].data(), grad_raw[set].data(), inner[set].data()});
    }
    bias = noise(sets * conv.out_channels);
    grad_bias = unwritten(sets * conv.out_channels);
  }

  int64_t run_count() const { return static_cast<int64_t>(runs.size()); }

  // Buffers of activations, forwards, and of gradients, backwards: the offsets of the two differ.
  template <class U = T>
  Rows<U> inputs() {
    Rows<U> x(ins, conv.in_channels, false);
    x.fill();
    for (std::size_t i = 0; i < runs.size(); ++i) runs[i].in_offset = x.offsets[i];
    return x;
  }
  Rows<T> results() {
    Rows<T> out(outs, conv.out_channels, false);
    for (std::size_t i = 0; i < runs.size(); ++i) runs[i].out_offset = out.offsets[i];
    return out;
  }
  Rows<T> output_grads() {
    Rows<T> grad_out(outs, conv.out_channels, true);
    grad_out.fill();
    for (std::size_t i = 0; i < runs.size(); ++i) runs[i].grad_out_offset = grad_out.offsets[i];
    return grad_out;
  }
  Rows<T> input_grads() {
    Rows<T> grad_in(ins, conv.in_channels, true);
    for (std::size_t i = 0; i < runs.size(); ++i) runs[i].grad_in_offset = grad_in.offsets[i];
    return grad_in;
  }

  void expect_weight_grads(bool of_all_sets) {
    for (std::size_t set = 0; set < raw.size(); ++set) {
      if (!of_all_sets && !used[set]) continue;
      expect_written(grad_raw[set], "grad_raw");
      expect_written(inner[set], "inner");
    }
  }

  void stem() {
    auto waves = inputs<float>();
    auto out = results(), grad_out = output_grads();
    Rows<float> grad_waves(ins, 1, false);
    grad_waves.zero();
    kernels.stem_forward(conv, runs.data(), run_count(), waves.data(), filters.data(), sets, bias.data(),
                         out.data(), threads);
    out.expect_written("out");
    kernels.stem_input_grad(conv, runs.data(), run_count(), grad_out.data(), filters.data(), sets,
                            grad_waves.data(), threads);
    grad_waves.expect_written("grad_waves");
    kernels.stem_weight_grad(conv, runs.data(), run_count(), sets, waves.data(), grad_out.data(),
                             filters.data(), grads.data(), threads);
    expect_weight_grads(true);
  }

  void head() {
    auto x = inputs(), out = results(), grad_in = input_grads(), grad_out = output_grads();
    kernels.head_forward(conv, runs.data(), run_count(), x.data(), filters.data(), sets, bias.data(),
                         out.data(), threads);
    out.expect_written("out");
    kernels.head_input_grad(conv, 0.1f, runs.data(), run_count(), grad_out.data(), filters.data(), sets,
                            x.data(), extra.data(), grad_in.data(), threads);
    grad_in.expect_written("grad_in");
    kernels.head_weight_grad(conv, runs.data(), run_count(), sets, x.data(), grad_out.data(), filters.data(),
                             grads.data(), threads);
    expect_weight_grads(true);
  }

  void biases() {
    auto grad_out = output_grads();
    kernels.bias_grad(conv, runs.data(), run_count(), sets, grad_out.data(), grad_bias.data(), threads);
    expect_written(grad_bias, "grad_bias");
  }

  void forward(const Plan &plan, Rows<T> &x, Rows<T> &out, Rows<T> &grad_out) {
    const auto pieces = static_cast<int64_t>(plan.pieces.size());
    if (!kernels.conv_forward(conv, plan.correlation, plan.pieces.data(), pieces, runs.data(), x.data(),
                              filters.data(), bias.data(), out.data(), threads))
      fail("finite");
    out.expect_written("out");
    kernels.conv_weight_grad(conv, plan.correlation, plan.pieces.data(), pieces, runs.data(), x.data(),
                             grad_out.data(), filters.data(), grads.data(), threads);
    expect_weight_grads(false);
  }

  void input_grad(const Plan &plan, Rows<T> &x, Rows<T> &grad_in, Rows<T> &grad_out) {
    if (!kernels.conv_input_grad(conv, 0.1f, plan.correlation, plan.pieces.data(),
                                 static_cast<int64_t>(plan.pieces.size()), runs.data(), grad_out.data(),
                                 filters.data(), x.data(), extra.data(), grad_in.data(), threads))
      fail("finite");
    grad_in.expect_written("grad_in");
  }
};

}  // namespace hifigan
