// The extension module hifigan_fast._cpu: raw pointers in, no torch header, the GIL released.
//
// Every buffer comes as (address, elements, dtype); its dtype and size are held against what the runs will
// touch, so a wrong call raises ValueError and never reads or writes outside.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/memory.h"
#include "cpu/plan.h"
#include "cpu/threads.h"

namespace py = pybind11;
using namespace hifigan;

namespace {

enum class Dtype { float32, bfloat16 };
const char *name_of(Dtype dtype) { return dtype == Dtype::float32 ? "float32" : "bfloat16"; }

struct Span {
  std::uintptr_t address;
  int64_t count;
  Dtype dtype;
};
using RunArray = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

const Kernels *active = available_kernels().front();

[[noreturn]] void fail(const std::string &message) { throw std::invalid_argument(message); }

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
float *floats(const Span &span, int64_t needed, const char *name) {
  return elements<float>(span, needed, name);
}

template <class Body>
void with_type(Dtype dtype, const Body &body) {
  if (dtype == Dtype::float32)
    body(float{});
  else
    body(BFloat16{});
}

// Sizes are far below what memory holds, so that no product of them overflows.
template <class... Sizes>
void check_product(const char *name, Sizes... sizes) {
  if ((static_cast<double>(sizes) * ... * 1.0) > 1e15) fail(std::string(name) + ": too large");
}

Conv make_conv(int64_t in_channels, int64_t out_channels, int64_t taps, int64_t stride, int64_t padding,
               int64_t groups, float slope) {
  if (in_channels < 1 || out_channels < 1 || taps < 1 || stride < 1 || padding < 0 || groups < 1)
    fail("Conv: channels, taps, stride and groups must be at least 1, padding at least 0");
  check_product("Conv", in_channels, out_channels, static_cast<double>(taps) + static_cast<double>(padding),
                stride);
  if (in_channels % groups || out_channels % groups) fail("Conv: groups must divide the channels");
  return {in_channels, out_channels, taps, stride, padding, groups, slope};
}

enum class Role { stem, conv, head };

int64_t window_rows(const Run &run, Role role) {
  return role == Role::stem ? (run.in_rows + run.period - 1) / run.period : run.in_rows;
}

// The runs of a call, checked against the convolution and each other.
std::vector<Run> read_runs(const RunArray &array, const Conv &conv, int64_t sets, Role role) {
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

struct Extent {  // floats that the runs reach in each buffer
  int64_t in = 0, out = 0, grad_in = 0, grad_out = 0;
};

Extent extent(const std::vector<Run> &runs, const Conv &conv, Role role) {
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

std::vector<Filters> read_filters(const FilterSpans &spans, const Conv &conv) {
  std::vector<Filters> filters;
  for (const auto &[raw, scale] : spans)
    filters.push_back({floats(raw, conv.filter_floats(), "raw"), floats(scale, conv.out_channels, "scale")});
  return filters;
}

int64_t signed_size(std::size_t size) { return static_cast<int64_t>(size); }

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

void row_norms(Span raw, int64_t rows, int64_t size, Span norms, int threads) {
  if (rows < 0 || size < 0) fail("row_norms: negative size");
  check_product("row_norms", rows, size);
  const float *from = floats(raw, rows * size, "raw");
  float *to = floats(norms, rows, "norms");
  py::gil_scoped_release release;
  active->row_norms(from, rows, size, to, threads);
}

// Calls body(plan, pieces), and again without transforms if a result is not finite.
template <class Body>
void run_plan(const Conv &conv, Pass pass, const std::vector<Run> &runs, int64_t sets, const Body &body) {
  for (const bool direct : {false, true}) {
    const Plan plan = make_plan(conv, pass, runs, sets, active->width, direct);
    if (body(plan, signed_size(plan.pieces.size()))) return;
  }
}

void forward(Dtype maps, Role role, const Conv &conv, const RunArray &array, Span x,
             const FilterSpans &weights, Span bias, Span out, int threads) {
  const int64_t sets = signed_size(weights.size());
  const auto runs = read_runs(array, conv, sets, role);
  const int64_t count = signed_size(runs.size());
  const Extent e = extent(runs, conv, role);
  const auto filters = read_filters(weights, conv);
  const float *b = floats(bias, sets * conv.out_channels, "bias");
  with_type(maps, [&](auto type) {
    using T = decltype(type);
    const auto &kernels = active->of<T>();
    const float *waves = role == Role::stem ? floats(x, e.in, "x") : nullptr;
    const T *from = role == Role::stem ? nullptr : elements<T>(x, e.in, "x");
    T *to = elements<T>(out, e.out, "out");
    py::gil_scoped_release release;
    if (role == Role::stem)
      kernels.stem_forward(conv, runs.data(), count, waves, filters.data(), sets, b, to, threads);
    else if (role == Role::head)
      kernels.head_forward(conv, runs.data(), count, from, filters.data(), sets, b, to, threads);
    else
      run_plan(conv, Pass::forward, runs, sets, [&](const Plan &plan, int64_t pieces) {
        return kernels.conv_forward(conv, plan.correlation, plan.pieces.data(), pieces, runs.data(), from,
                                    filters.data(), b, to, threads);
      });
  });
}

void input_grad(Dtype maps, Role role, const Conv &conv, float slope, const RunArray &array, Span grad_out,
                const FilterSpans &weights, Span saved, const std::vector<std::optional<Span>> &map_grads,
                const std::vector<float> &matching, Span grad_in, int threads) {
  if (role == Role::stem) fail("stem: its input gradient is stem_input_grad");
  const int64_t sets = signed_size(weights.size());
  const auto runs = read_runs(array, conv, sets, role);
  const Extent e = extent(runs, conv, role);
  const auto filters = read_filters(weights, conv);
  with_type(maps, [&](auto type) {
    using T = decltype(type);
    const auto &kernels = active->of<T>();
    const T *from = elements<T>(grad_out, e.grad_out, "grad_out"), *mask = elements<T>(saved, e.in, "saved");
    T *to = elements<T>(grad_in, e.grad_in, "grad_in");
    const auto extra = read_map_grads<T>(map_grads, matching, runs, conv);
    py::gil_scoped_release release;
    if (role == Role::head)
      kernels.head_input_grad(conv, slope, runs.data(), signed_size(runs.size()), from, filters.data(), sets,
                              mask, extra.data(), to, threads);
    else
      run_plan(conv, Pass::input_grad, runs, sets, [&](const Plan &plan, int64_t pieces) {
        return kernels.conv_input_grad(conv, slope, plan.correlation, plan.pieces.data(), pieces, runs.data(),
                                       from, filters.data(), mask, extra.data(), to, threads);
      });
  });
}

void stem_input_grad(Dtype maps, const Conv &conv, const RunArray &array, Span grad_out,
                     const FilterSpans &weights, Span grad_waves, int threads) {
  const int64_t sets = signed_size(weights.size());
  const auto runs = read_runs(array, conv, sets, Role::stem);
  for (const Run &a : runs)
    for (const Run &b : runs)
      if (a.in_offset == b.in_offset && (a.samples != b.samples || (a.samples && a.in_rows != b.in_rows)))
        fail("runs: one waveform with two sizes");
  const Extent e = extent(runs, conv, Role::stem);
  const auto filters = read_filters(weights, conv);
  float *to = floats(grad_waves, e.in, "grad_waves");
  with_type(maps, [&](auto type) {
    using T = decltype(type);
    const T *from = elements<T>(grad_out, e.grad_out, "grad_out");
    py::gil_scoped_release release;
    active->of<T>().stem_input_grad(conv, runs.data(), signed_size(runs.size()), from, filters.data(), sets,
                                    to, threads);
  });
}

// One (norms or null, gradient of raw, inner) a set; zeroed for sets that no run has.
using GradSpans = std::vector<std::tuple<std::optional<Span>, Span, Span>>;

std::vector<FilterGrads> read_grads(const GradSpans &spans, const Conv &conv, const std::vector<Run> &runs) {
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

void weight_grad(Dtype maps, Role role, const Conv &conv, const RunArray &array, Span x, Span grad_out,
                 const FilterSpans &weights, const GradSpans &grad_weights, Span grad_bias, int threads) {
  const int64_t sets = signed_size(weights.size());
  const auto runs = read_runs(array, conv, sets, role);
  const int64_t count = signed_size(runs.size());
  const Extent e = extent(runs, conv, role);
  const auto filters = read_filters(weights, conv);
  if (grad_weights.size() != weights.size()) fail("grad_weights: expected one entry a set");
  float *bias = floats(grad_bias, sets * conv.out_channels, "grad_bias");
  with_type(maps, [&](auto type) {
    using T = decltype(type);
    const auto &kernels = active->of<T>();
    const float *waves = role == Role::stem ? floats(x, e.in, "x") : nullptr;
    const T *from = role == Role::stem ? nullptr : elements<T>(x, e.in, "x");
    const T *rows = elements<T>(grad_out, e.grad_out, "grad_out");
    const auto grads = read_grads(grad_weights, conv, runs);
    py::gil_scoped_release release;
    if (role == Role::stem) {
      kernels.stem_weight_grad(conv, runs.data(), count, sets, waves, rows, filters.data(), grads.data(),
                               threads);
    } else if (role == Role::conv) {
      const Plan plan = make_plan(conv, Pass::forward, runs, sets, active->width);
      kernels.conv_weight_grad(conv, plan.correlation, plan.pieces.data(), signed_size(plan.pieces.size()),
                               runs.data(), from, rows, filters.data(), grads.data(), threads);
    } else {
      kernels.head_weight_grad(conv, runs.data(), count, sets, from, rows, filters.data(), grads.data(),
                               threads);
    }
    kernels.bias_grad(conv, runs.data(), count, sets, rows, bias, threads);
  });
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

void feature_l1(Dtype type_of_maps, const std::vector<Pair> &maps, Span means, int threads) {
  float *to = floats(means, signed_size(maps.size()), "means");
  with_type(type_of_maps, [&](auto type) {
    using T = decltype(type);
    const auto pairs = read_pairs<T>(maps);
    std::size_t chunks = 0;
    for (const auto &pair : pairs) chunks += static_cast<std::size_t>((pair.count + kL1Chunk - 1) / kL1Chunk);
    std::vector<double> partial(chunks);
    py::gil_scoped_release release;
    active->of<T>().feature_l1(pairs.data(), signed_size(pairs.size()), partial.data(), to, threads);
  });
}

void feature_l1_grad(Dtype type_of_maps, const std::vector<Pair> &maps, Span grads,
                     const std::vector<std::optional<Span>> &grads_real,
                     const std::vector<std::optional<Span>> &grads_generated, int threads) {
  if (grads_real.size() != maps.size() || grads_generated.size() != maps.size())
    fail("feature_l1_grad: expected one gradient of each kind a pair");
  const float *by = floats(grads, signed_size(maps.size()), "grads");
  with_type(type_of_maps, [&](auto type) {
    using T = decltype(type);
    auto pairs = read_pairs<T>(maps);
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      if (grads_real[i]) pairs[i].grad_real = elements<T>(*grads_real[i], pairs[i].count, "grads_real");
      if (grads_generated[i])
        pairs[i].grad_generated = elements<T>(*grads_generated[i], pairs[i].count, "grads_generated");
    }
    py::gil_scoped_release release;
    active->of<T>().feature_l1_grad(pairs.data(), signed_size(pairs.size()), by, threads);
  });
}

// Fresh memory, in bytes.
void advise(std::uintptr_t address, int64_t bytes) {
  if (bytes < 0) fail("prefer_huge_pages: negative size");
  prefer_huge_pages(reinterpret_cast<void *>(address), static_cast<std::size_t>(bytes));
}

double peak(int threads) {
  if (threads < 1 || threads > kMostThreads)
    fail("threads: must be from 1 to " + std::to_string(kMostThreads));
  py::gil_scoped_release release;
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const double operations = active->multiply_add_peak(2'000'000, threads);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, operations / took.count());
  }
  return best;
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels *kernels : available_kernels()) names.emplace_back(kernels->name);
  return names;
}

void use_instruction_set(const std::string &name) {
  for (const Kernels *kernels : available_kernels())
    if (kernels->name == name) {
      active = kernels;
      return;
    }
  fail("instruction set " + name + ": not on this machine");
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  prepare_threads();
  py::class_<Conv>(m, "Conv").def(py::init(&make_conv));
  py::enum_<Dtype>(m, "Dtype").value("float32", Dtype::float32).value("bfloat16", Dtype::bfloat16);
  py::enum_<Role>(m, "Role").value("stem", Role::stem).value("conv", Role::conv).value("head", Role::head);
  py::class_<Span>(m, "Span").def(py::init<std::uintptr_t, int64_t, Dtype>());
  m.def("instruction_sets", &instruction_sets, "Those that this machine has, best first.");
  m.def("instruction_set", [] { return std::string(active->name); });
  m.def("use_instruction_set", &use_instruction_set);
  m.def("prefer_huge_pages", &advise);
  m.def("peak", &peak, "Floating-point operations a second in registers, best of five: the machine's peak.");
  m.def("row_norms", &row_norms);
  m.def("forward", &forward);
  m.def("input_grad", &input_grad);
  m.def("stem_input_grad", &stem_input_grad);
  m.def("weight_grad", &weight_grad);
  m.def("feature_l1", &feature_l1);
  m.def("feature_l1_grad", &feature_l1_grad);
}
