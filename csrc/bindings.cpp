// The extension module hifigan_fast._cpu: raw pointers in, no torch header, the GIL released.
//
// Every buffer comes as (address, floats); its size is held against what the runs will touch, so a
// wrong call raises ValueError and never reads or writes outside.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/plan.h"
#include "cpu/threads.h"

namespace py = pybind11;
using namespace hifigan;

namespace {

using Span = std::pair<std::uintptr_t, int64_t>;
using RunArray = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

const Kernels *active = available_kernels().front();

[[noreturn]] void fail(const std::string &message) { throw std::invalid_argument(message); }

float *floats(const Span &span, int64_t needed, const char *name) {
  if (needed > span.second)
    fail(std::string(name) + ": holds " + std::to_string(span.second) + " floats, the call needs " +
         std::to_string(needed));
  if (needed > 0 && !span.first) fail(std::string(name) + ": null pointer");
  if (span.first % alignof(float)) fail(std::string(name) + ": misaligned pointer");
  return reinterpret_cast<float *>(span.first);
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
  check_product("Conv", in_channels, out_channels, taps + padding, stride);
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
    check_product("runs", run.samples, run.period, std::max(run.in_rows, run.out_rows), channels);
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

// The pieces of a product whose operand is `base`; `gradient`: rows of grad_out are the operand.
std::vector<Piece> make_pieces(const std::vector<Run> &runs, const Conv &conv, const Plan &plan,
                               const float *base, const float *weights, bool gradient) {
  std::vector<Piece> pieces;
  for (const Run &run : runs) {
    const float *set = weights + run.weights * plan.floats();
    if (gradient)
      pieces.push_back({base + run.grad_out_offset * conv.out_channels, set, run.sequences(),
                        (run.in_rows + conv.stride - 1) / conv.stride, run.out_rows});
    else
      pieces.push_back(
          {base + run.in_offset * conv.in_channels, set, run.sequences(), run.out_rows, run.in_rows});
  }
  return pieces;
}

Plan plan_of(const Conv &conv, Pass pass) { return make_plan(conv, pass, active->width); }

std::vector<const float *> read_map_grads(const std::vector<std::optional<Span>> &spans,
                                          const std::vector<Run> &runs, const Conv &conv) {
  if (spans.size() != runs.size()) fail("map_grads: expected one entry a run");
  std::vector<const float *> pointers;
  for (std::size_t i = 0; i < runs.size(); ++i)
    pointers.push_back(
        spans[i] ? floats(*spans[i], runs[i].sequences() * runs[i].in_rows * conv.in_channels, "map_grads")
                 : nullptr);
  return pointers;
}

void row_norms(Span raw, int64_t rows, int64_t size, Span norms, int threads) {
  if (rows < 0 || size < 0) fail("row_norms: negative size");
  check_product("row_norms", rows, size);
  const float *from = floats(raw, rows * size, "raw");
  float *to = floats(norms, rows, "norms");
  py::gil_scoped_release release;
  active->row_norms(from, rows, size, to, threads);
}

void pack(const Conv &conv, Pass pass, Span raw, Span scale, Span packed, int threads) {
  const Plan plan = plan_of(conv, pass);
  const int64_t size = conv.out_channels * conv.in_group() * conv.taps;
  const float *from = floats(raw, size, "raw"), *by = floats(scale, conv.out_channels, "scale");
  float *to = floats(packed, plan.floats(), "packed");
  py::gil_scoped_release release;
  if (pass == Pass::forward) {
    active->pack_forward(conv, plan.product, from, by, to, threads);
  } else if (pass == Pass::input_grad) {
    active->pack_input_grad(conv, plan.product, from, by, to, threads);
  } else {
    // [out channel][tap] as it stands: a forward packing of the transposed one-tap convolution
    std::vector<float> turned(static_cast<std::size_t>(size)),
        ones(static_cast<std::size_t>(conv.taps), 1.0f);
    for (int64_t o = 0; o < conv.out_channels; ++o)
      for (int64_t t = 0; t < conv.taps; ++t)
        turned[static_cast<std::size_t>(t * conv.out_channels + o)] = from[o * conv.taps + t] * by[o];
    const Conv transposed{conv.out_channels, conv.taps, 1, 1, 0, 1, 1.0f};
    active->pack_forward(transposed, plan.product, turned.data(), ones.data(), to, threads);
  }
}

void unpack_grad(const Conv &conv, Span packed, Span raw, Span scale, std::optional<Span> norms,
                 Span grad_raw, Span inner, int threads) {
  const Plan plan = plan_of(conv, Pass::forward);
  const int64_t size = conv.out_channels * conv.in_group() * conv.taps;
  const float *from = floats(packed, plan.floats(), "packed"), *values = floats(raw, size, "raw");
  const float *by = floats(scale, conv.out_channels, "scale");
  const float *lengths = norms ? floats(*norms, conv.out_channels, "norms") : nullptr;
  float *to = floats(grad_raw, size, "grad_raw"), *dots = floats(inner, conv.out_channels, "inner");
  py::gil_scoped_release release;
  active->unpack_grad(conv, plan.product, from, values, by, lengths, to, dots, threads);
}

void forward(Role role, const Conv &conv, const RunArray &array, int64_t sets, Span x, Span weights,
             Span bias, Span out, int threads) {
  const auto runs = read_runs(array, conv, sets, role);
  const Extent e = extent(runs, conv, role);
  const Plan plan = plan_of(conv, role == Role::stem ? Pass::stem_forward : Pass::forward);
  const int64_t set = role == Role::head ? conv.taps * conv.in_channels : plan.floats();
  const float *from = floats(x, e.in, "x"), *w = floats(weights, sets * set, "weights");
  const float *b = floats(bias, sets * conv.out_channels, "bias");
  float *to = floats(out, e.out, "out");
  const auto pieces = make_pieces(runs, conv, plan, from, w, false);
  const auto count = static_cast<int64_t>(runs.size());
  py::gil_scoped_release release;
  if (role == Role::stem)
    active->stem_forward(conv, plan.product, runs.data(), count, pieces.data(), from, b, to, threads);
  else if (role == Role::conv)
    active->conv_forward(conv, plan.product, runs.data(), count, pieces.data(), b, to, threads);
  else
    active->head_forward(conv, runs.data(), count, from, w, b, to, threads);
}

void input_grad(Role role, const Conv &conv, float slope, const RunArray &array, int64_t sets, Span grad_out,
                Span weights, Span saved, const std::vector<std::optional<Span>> &map_grads, Span grad_in,
                int threads) {
  const auto runs = read_runs(array, conv, sets, role);
  const Extent e = extent(runs, conv, role);
  const Plan plan = plan_of(conv, Pass::input_grad);
  const int64_t set = role == Role::head ? conv.taps * conv.in_channels : plan.floats();
  const float *from = floats(grad_out, e.grad_out, "grad_out");
  const float *w = floats(weights, sets * set, "weights"), *mask = floats(saved, e.in, "saved");
  float *to = floats(grad_in, e.grad_in, "grad_in");
  const auto extra = read_map_grads(map_grads, runs, conv);
  const auto pieces = make_pieces(runs, conv, plan, from, w, true);
  const auto count = static_cast<int64_t>(runs.size());
  py::gil_scoped_release release;
  if (role == Role::conv)
    active->conv_input_grad(conv, slope, plan.product, runs.data(), count, pieces.data(), mask, extra.data(),
                            to, threads);
  else
    active->head_input_grad(conv, slope, runs.data(), count, from, w, mask, extra.data(), to, threads);
}

void stem_input_grad(const Conv &conv, const RunArray &array, int64_t sets, Span grad_out, Span weights,
                     Span grad_waves, int threads) {
  const auto runs = read_runs(array, conv, sets, Role::stem);
  for (const Run &a : runs)
    for (const Run &b : runs)
      if (a.in_offset == b.in_offset && (a.samples != b.samples || (a.samples && a.in_rows != b.in_rows)))
        fail("runs: one waveform with two sizes");
  const Extent e = extent(runs, conv, Role::stem);
  const Plan plan = plan_of(conv, Pass::stem_input_grad);
  const float *from = floats(grad_out, e.grad_out, "grad_out");
  const float *w = floats(weights, sets * plan.floats(), "weights");
  float *to = floats(grad_waves, e.in, "grad_waves");
  const auto pieces = make_pieces(runs, conv, plan, from, w, true);
  py::gil_scoped_release release;
  active->stem_input_grad(conv, plan.product, runs.data(), static_cast<int64_t>(runs.size()), pieces.data(),
                          to, threads);
}

void weight_grad(Role role, const Conv &conv, const RunArray &array, int64_t sets, Span x, Span grad_out,
                 Span grad_weights, Span grad_bias, int threads) {
  const auto runs = read_runs(array, conv, sets, role);
  const Extent e = extent(runs, conv, role);
  const Plan plan = plan_of(conv, Pass::forward);
  const int64_t set = role == Role::head ? conv.taps * conv.in_channels : plan.floats();
  const float *from = floats(x, e.in, "x"), *grads = floats(grad_out, e.grad_out, "grad_out");
  float *to = floats(grad_weights, sets * set, "grad_weights");
  float *bias = floats(grad_bias, sets * conv.out_channels, "grad_bias");
  const auto count = static_cast<int64_t>(runs.size());
  py::gil_scoped_release release;
  if (role == Role::stem)
    active->stem_weight_grad(conv, plan.product, runs.data(), count, sets, from, grads, to, threads);
  else if (role == Role::conv)
    active->conv_weight_grad(conv, plan.product, runs.data(), count, sets, from, grads, to, threads);
  else
    active->head_weight_grad(conv, runs.data(), count, sets, from, grads, to, threads);
  active->bias_grad(conv, runs.data(), count, sets, grads, bias, threads);
}

using Pair = std::pair<Span, Span>;

std::vector<MapPair> read_pairs(const std::vector<Pair> &maps) {
  std::vector<MapPair> pairs;
  for (const auto &[real, generated] : maps) {
    if (real.second != generated.second) fail("maps: the two of a pair differ in size");
    pairs.push_back({floats(real, real.second, "maps"), floats(generated, real.second, "maps"), nullptr,
                     nullptr, real.second});
  }
  return pairs;
}

void feature_l1(const std::vector<Pair> &maps, Span means, int threads) {
  const auto pairs = read_pairs(maps);
  const auto count = static_cast<int64_t>(pairs.size());
  float *to = floats(means, count, "means");
  std::size_t chunks = 0;
  for (const MapPair &pair : pairs)
    chunks += static_cast<std::size_t>((pair.count + kL1Chunk - 1) / kL1Chunk);
  std::vector<double> partial(chunks);
  py::gil_scoped_release release;
  active->feature_l1(pairs.data(), count, partial.data(), to, threads);
}

void feature_l1_grad(const std::vector<Pair> &maps, Span grads,
                     const std::vector<std::optional<Span>> &grads_real,
                     const std::vector<std::optional<Span>> &grads_generated, int threads) {
  auto pairs = read_pairs(maps);
  const auto count = static_cast<int64_t>(pairs.size());
  if (grads_real.size() != pairs.size() || grads_generated.size() != pairs.size())
    fail("feature_l1_grad: expected one gradient of each kind a pair");
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    if (grads_real[i]) pairs[i].grad_real = floats(*grads_real[i], pairs[i].count, "grads_real");
    if (grads_generated[i])
      pairs[i].grad_generated = floats(*grads_generated[i], pairs[i].count, "grads_generated");
  }
  const float *by = floats(grads, count, "grads");
  py::gil_scoped_release release;
  active->feature_l1_grad(pairs.data(), count, by, threads);
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
  py::enum_<Role>(m, "Role").value("stem", Role::stem).value("conv", Role::conv).value("head", Role::head);
  py::enum_<Pass>(m, "Pass")
      .value("forward", Pass::forward)
      .value("input_grad", Pass::input_grad)
      .value("stem_input_grad", Pass::stem_input_grad);
  m.def("instruction_sets", &instruction_sets, "Those that this machine has, best first.");
  m.def("instruction_set", [] { return std::string(active->name); });
  m.def("use_instruction_set", &use_instruction_set);
  m.def("packed_floats", [](const Conv &conv, Pass pass) { return plan_of(conv, pass).floats(); });
  m.def("row_norms", &row_norms);
  m.def("pack", &pack);
  m.def("unpack_grad", &unpack_grad);
  m.def("forward", &forward);
  m.def("input_grad", &input_grad);
  m.def("stem_input_grad", &stem_input_grad);
  m.def("weight_grad", &weight_grad);
  m.def("feature_l1", &feature_l1);
  m.def("feature_l1_grad", &feature_l1_grad);
}
