// The extension module hifigan_fast._cpu: raw pointers in, no torch header, the GIL released.
//
// Every buffer comes as (address, elements, dtype); its dtype and size are held against what the runs will
// touch, so a wrong call raises ValueError and never reads or writes outside.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "arguments.h"
#include "cpu/memory.h"
#include "cpu/plan.h"
#include "cpu/threads.h"

namespace py = pybind11;
using namespace hifigan;

namespace {

const Kernels *active = available_kernels().front();

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
