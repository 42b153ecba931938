// What the calls of the extension take, checked: against the call's geometry, against each other, and each
// buffer against what the runs will touch.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/kernels.h"

namespace hifigan {

namespace py = pybind11;

enum class Dtype { float32, bfloat16 };
inline const char *name_of(Dtype dtype) { return dtype == Dtype::float32 ? "float32" : "bfloat16"; }

struct Span {
  std::uintptr_t address;
  int64_t count;
  Dtype dtype;
};
using RunArray = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

[[noreturn]] inline void fail(const std::string &message) { throw std::invalid_argument(message); }

template <class T>
T *elements(const Span &span, int64_t needed, const char *name) {
  constexpr Dtype expected = std::is_same_v<T, float> ? Dtype::float32 : Dtype::bfloat16;
  if (span.dtype != expected)
    fail(std::string(name) + ": expected " + name_of(expected) + ", got " + name_of(span.dtype));
  if (needed > span.count)
    fail(std::string(name) + ": holds " + std::to_string(span.count) + " elements, the call needs " +
         std::to_string(needed));
  if (needed > 0 && !span.address) fail(std::string(name) + ": null pointer");
  if (span.address % alignof(T)) fail(std::string(name) + ": misaligned pointer");
  return reinterpret_cast<T *>(span.address);
}
inline float *floats(const Span &span, int64_t needed, const char *name) {
  return elements<float>(span, needed, name);
}

template <class Body>
void with_type(Dtype dtype, const Body &body) {
  if (dtype == Dtype::float32)
    body(float{});
  else
    body(BFloat16{});
}

inline int64_t signed_size(std::size_t size) { return static_cast<int64_t>(size); }

// Sizes are far below what memory holds, so that no product of them overflows.
template <class... Sizes>
void check_product(const char *name, Sizes... sizes) {
  if ((static_cast<double>(sizes) * ... * 1.0) > 1e15) fail(std::string(name) + ": too large");
}

inline Conv make_conv(int64_t in_channels, int64_t out_channels, int64_t taps, int64_t stride,
                      int64_t padding, int64_t groups, float slope) {
  if (in_channels < 1 || out_channels < 1 || taps < 1 || stride < 1 || padding < 0 || groups < 1)
    fail("Conv: channels, taps, stride and groups must be at least 1, padding at least 0");
  check_product("Conv", in_channels, out_channels, static_cast<double>(taps) + static_cast<double>(padding),
                stride);
  if (in_channels % groups || out_channels % groups) fail("Conv: groups must divide the channels");
  return {in_channels, out_channels, taps, stride, padding, groups, slope};
}

enum class Role { stem, conv, head };

inline int64_t window_rows(const Run &run, Role role) {
  return role == Role::stem ? (run.in_rows + run.period - 1) / run.period : run.in_rows;
}

// The runs of a call, checked against the convolution and each other.
inline std::vector<Run> read_runs(const RunArray &array, const Conv &conv, int64_t sets, Role role) {
  if (array.ndim() != 2 || array.shape(1) != kRunFields)
    fail("runs: expected an array of shape [n, " + std::to_string(kRunFields) + "]");
  if (sets < 1) fail("sets: must be at least 1");
  check_product("sets", sets, conv.in_channels, conv.out_channels, conv.taps + conv.stride);
  if (role == Role::stem && (conv.in_channels != 1 || conv.groups != 1))
    fail("stem: expected one input channel");
  if (role == Role::head && (conv.out_channels != 1 || conv.groups != 1))
    fail("head: expected one output channel");
  std::vector<Run> runs;
  for (py::ssize_t i = 0; i < array.shape(0); ++i) {
    const int64_t *f = array.data(i, 0);
    const Run run{f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8]};
    for (int j = 0; j < kRunFields; ++j)
      if (f[j] < 0) fail("runs: negative field");
    const int64_t channels = std::max(conv.in_channels, conv.out_channels);
    check_product("runs", std::max<int64_t>(run.samples, 1), run.period, std::max(run.in_rows, run.out_rows),
                  channels);
    check_product("runs", std::max({f[5], f[6], f[7], f[8]}), channels);
    if (run.weights >= sets) fail("runs: no such set of weights");
    if (run.period < 1 || run.in_rows < 1 || run.out_rows < 1) fail("runs: empty sequence");
    const int64_t rows = window_rows(run, role);
    if (rows + 2 * conv.padding < conv.taps ||
        run.out_rows != (rows + 2 * conv.padding - conv.taps) / conv.stride + 1)
      fail("runs: out_rows does not follow from in_rows");
    if (role == Role::stem && rows * run.period - run.in_rows >= run.in_rows)
      fail("runs: the reflect pad is not shorter than the waveform");
    runs.push_back(run);
  }
  return runs;
}

struct Extent {  // elements that the runs reach in each buffer
  int64_t in = 0, out = 0, grad_in = 0, grad_out = 0;
};

inline Extent extent(const std::vector<Run> &runs, const Conv &conv, Role role) {
  Extent e;
  const auto grow = [](int64_t &to, int64_t offset, int64_t rows, int64_t channels) {
    to = std::max(to, (offset + rows) * channels);
  };
  for (const Run &run : runs) {
    const int64_t in = role == Role::stem ? run.samples * run.in_rows : run.sequences() * run.in_rows;
    const int64_t out = run.sequences() * run.out_rows;
    grow(e.in, run.in_offset, in, conv.in_channels);
    grow(e.out, run.out_offset, out, conv.out_channels);
    grow(e.grad_in, run.grad_in_offset, in, conv.in_channels);
    grow(e.grad_out, run.grad_out_offset, out, conv.out_channels);
  }
  return e;
}

// One (raw, scale) a set.
using FilterSpans = std::vector<std::pair<Span, Span>>;

inline std::vector<Filters> read_filters(const FilterSpans &spans, const Conv &conv) {
  std::vector<Filters> filters;
  for (const auto &[raw, scale] : spans)
    filters.push_back({floats(raw, conv.filter_floats(), "raw"), floats(scale, conv.out_channels, "scale")});
  return filters;
}

template <class T>
std::vector<MapGrad<T>> read_map_grads(const std::vector<std::optional<Span>> &spans,
                                       const std::vector<float> &matching, const std::vector<Run> &runs,
                                       const Conv &conv) {
  if (spans.size() != runs.size()) fail("map_grads: expected one entry a run");
  if (!matching.empty() && matching.size() != runs.size())
    fail("matching: expected none, or one entry a run");
  std::vector<MapGrad<T>> grads(runs.size());
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const int64_t count = runs[i].sequences() * runs[i].in_rows * conv.in_channels;
    if (spans[i]) grads[i].at = elements<T>(*spans[i], count, "map_grads");
    grads[i].is_match = !matching.empty();
    if (grads[i].is_match) grads[i].scale = matching[i];
  }
  return grads;
}

// One (norms or null, gradient of raw, inner) a set; zeroed for sets that no run has.
using GradSpans = std::vector<std::tuple<std::optional<Span>, Span, Span>>;

inline std::vector<FilterGrads> read_grads(const GradSpans &spans, const Conv &conv,
                                           const std::vector<Run> &runs) {
  std::vector<FilterGrads> grads;
  for (const auto &[norms, raw, inner] : spans)
    grads.push_back({norms ? floats(*norms, conv.out_channels, "norms") : nullptr,
                     floats(raw, conv.filter_floats(), "grad_raw"),
                     floats(inner, conv.out_channels, "inner")});
  for (std::size_t set = 0; set < grads.size(); ++set) {
    if (std::any_of(runs.begin(), runs.end(),
                    [&](const Run &run) { return run.weights == signed_size(set) && run.sequences() > 0; }))
      continue;
    std::fill_n(grads[set].raw, conv.filter_floats(), 0.0f);
    std::fill_n(grads[set].inner, conv.out_channels, 0.0f);
  }
  return grads;
}

using Pair = std::pair<Span, Span>;

template <class T>
std::vector<MapPair<T>> read_pairs(const std::vector<Pair> &maps) {
  std::vector<MapPair<T>> pairs;
  for (const auto &[real, generated] : maps) {
    if (real.count != generated.count) fail("maps: the two of a pair differ in size");
    if (real.count < 0) fail("maps: negative size");
    pairs.push_back({elements<T>(real, real.count, "maps"), elements<T>(generated, real.count, "maps"),
                     nullptr, nullptr, real.count});
  }
  return pairs;
}

}  // namespace hifigan
