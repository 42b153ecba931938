// Runs every kernel over odd shapes, on buffers of exactly the floats that it may touch, under
// AddressSanitizer and UndefinedBehaviorSanitizer (`make sanitize`). Numbers are held against plain
// PyTorch in tests/: here all that a kernel shall write must be finite, and all else as it was.
#include <sanitizer/common_interface_defs.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "../cpu/memory.h"
#include "../cpu/plan.h"

namespace hifigan {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Instead of memory.cpp's, which keeps its buffers: fresh at each call, exact, and full of NaN, so that
// scratch shows that is too short, not written before it is used, or used after the next call.
float *scratch(Scratch purpose, std::size_t floats) {
  struct Delete {
    void operator()(float *p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  static thread_local std::unique_ptr<float, Delete> buffers[3];
  auto &buffer = buffers[static_cast<int>(purpose)];
  buffer.reset(static_cast<float *>(::operator new(floats * sizeof(float), std::align_val_t(64))));
  std::fill_n(buffer.get(), floats, kNaN);
  return buffer.get();
}

namespace {

using Floats = std::vector<float>;

std::string current;  // what runs now

[[noreturn]] void fail(const char *what) {
  std::fprintf(stderr, "odd_shapes: %s, %s\n", what, current.c_str());
  std::exit(1);
}

Floats noise(int64_t count) {
  static std::uint32_t state = 1;
  Floats floats(static_cast<std::size_t>(count));
  for (float &f : floats) {
    state = state * 1664525 + 1013904223;
    f = static_cast<float>(state >> 8) / (1 << 23) - 1;
  }
  return floats;
}

Floats unwritten(int64_t count) { return Floats(static_cast<std::size_t>(count), kNaN); }

bool finite(const float *floats, int64_t count) {
  return std::all_of(floats, floats + count, [](float f) { return std::isfinite(f); });
}

void expect_finite(const Floats &floats, const char *name) {
  if (!finite(floats.data(), static_cast<int64_t>(floats.size()))) fail(name);
}

// The rows of all runs in one buffer that begins and ends with them; between two runs lies NaN.
struct Rows {
  static constexpr int64_t kGap = 3;
  std::vector<int64_t> counts, offsets;
  int64_t channels;
  Floats floats;

  Rows(std::vector<int64_t> rows, int64_t row_channels, bool backwards)
      : counts(std::move(rows)), offsets(counts.size()), channels(row_channels) {
    int64_t total = 0;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const std::size_t run = backwards ? counts.size() - 1 - i : i;
      offsets[run] = total + (i ? kGap : 0);
      total = offsets[run] + counts[run];
    }
    floats = unwritten(total * channels);
  }
  float *of(std::size_t run) { return floats.data() + offsets[run] * channels; }
  void fill() {
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const Floats values = noise(counts[i] * channels);
      std::copy(values.begin(), values.end(), of(i));
    }
  }
  void zero() {
    for (std::size_t i = 0; i < counts.size(); ++i) std::fill_n(of(i), counts[i] * channels, 0.0f);
  }
  void expect_written(const char *name) {
    for (std::size_t i = 0; i < counts.size(); ++i) {
      if (!finite(of(i), counts[i] * channels)) fail(name);
      std::fill_n(of(i), counts[i] * channels, kNaN);
    }
    for (const float f : floats)
      if (!std::isnan(f)) fail((std::string(name) + " (between the runs)").c_str());
  }
};

enum class Role { stem, conv, head };

// One run: its set of weights, and how much of it there is. A stem has rows of the fold.
struct Size {
  int64_t set, samples, period, rows;
};

// Of a stem's `rows` rows, every other run's last one is mirrored as far as may be.
int64_t waveform(const Size &size, std::size_t index) {
  const int64_t whole = size.rows * size.period;
  return index % 2 ? whole : std::max(whole - size.period + 1, whole / 2 + 1);
}

// Everything that a call of one layer touches.
struct Call {
  Conv conv;
  Role role;
  int64_t sets = 0;
  std::vector<Run> runs;
  std::unique_ptr<Rows> x, out, grad_in, grad_out;
  std::vector<Floats> raw, scale, norms, grad_raw, inner, map_grads;
  std::vector<Filters> filters;
  std::vector<FilterGrads> grads;
  std::vector<const float *> extra;
  std::vector<bool> used;  // sets
  Floats bias, grad_bias, turned;

  Call(const Conv &layer, Role as, const std::vector<Size> &sizes) : conv(layer), role(as) {
    std::vector<int64_t> ins, outs;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const Size &s = sizes[i];
      const int64_t out_rows = (s.rows + 2 * conv.padding - conv.taps) / conv.stride + 1;
      const int64_t in_rows = role == Role::stem ? waveform(s, i) : s.rows;
      runs.push_back({s.set, s.samples, s.period, in_rows, out_rows, 0, 0, 0, 0});
      ins.push_back(s.samples * in_rows * (role == Role::stem ? 1 : s.period));
      outs.push_back(s.samples * s.period * out_rows);
      sets = std::max(sets, s.set + 2);  // the last has no run
    }
    x = std::make_unique<Rows>(ins, conv.in_channels, false);
    out = std::make_unique<Rows>(outs, conv.out_channels, false);
    grad_in = std::make_unique<Rows>(ins, conv.in_channels, true);
    grad_out = std::make_unique<Rows>(outs, conv.out_channels, true);
    x->fill(), grad_out->fill();
    used.resize(static_cast<std::size_t>(sets));
    for (std::size_t i = 0; i < runs.size(); ++i) {
      Run &run = runs[i];
      run.in_offset = x->offsets[i], run.out_offset = out->offsets[i];
      run.grad_in_offset = grad_in->offsets[i], run.grad_out_offset = grad_out->offsets[i];
      if (run.sequences()) used[static_cast<std::size_t>(run.weights)] = true;
      map_grads.push_back(noise(ins[i] * conv.in_channels));
    }
    for (std::size_t i = 0; i < runs.size(); ++i) extra.push_back(i % 2 ? nullptr : map_grads[i].data());
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
    turned = noise(sets * conv.taps * conv.in_channels);
  }

  int64_t run_count() const { return static_cast<int64_t>(runs.size()); }

  void expect_weight_grads() {
    for (std::size_t set = 0; set < raw.size(); ++set) {
      if (role == Role::conv && !used[set]) continue;  // the bindings write zeros
      expect_finite(grad_raw[set], "grad_raw");
      expect_finite(inner[set], "inner");
      std::fill(grad_raw[set].begin(), grad_raw[set].end(), kNaN);
    }
  }

  void stem(const Kernels &k, int threads) {
    k.stem_forward(conv, runs.data(), run_count(), x->floats.data(), filters.data(), sets, bias.data(),
                   out->floats.data(), threads);
    out->expect_written("out");
    Rows grad_waves(x->counts, 1, false);
    grad_waves.zero();
    k.stem_input_grad(conv, runs.data(), run_count(), grad_out->floats.data(), filters.data(), sets,
                      grad_waves.floats.data(), threads);
    grad_waves.expect_written("grad_waves");
    k.stem_weight_grad(conv, runs.data(), run_count(), sets, x->floats.data(), grad_out->floats.data(),
                       filters.data(), grads.data(), threads);
    expect_weight_grads();
  }

  void head(const Kernels &k, int threads) {
    k.head_forward(conv, runs.data(), run_count(), x->floats.data(), turned.data(), bias.data(),
                   out->floats.data(), threads);
    out->expect_written("out");
    k.head_input_grad(conv, 0.1f, runs.data(), run_count(), grad_out->floats.data(), turned.data(),
                      x->floats.data(), extra.data(), grad_in->floats.data(), threads);
    grad_in->expect_written("grad_in");
    k.head_weight_grad(conv, runs.data(), run_count(), sets, x->floats.data(), grad_out->floats.data(),
                       filters.data(), grads.data(), threads);
    expect_weight_grads();
  }

  void forward(const Kernels &k, const Plan &plan, int threads) {
    k.conv_forward(conv, plan.correlation, plan.pieces.data(), static_cast<int64_t>(plan.pieces.size()),
                   runs.data(), x->floats.data(), filters.data(), bias.data(), out->floats.data(), threads);
    out->expect_written("out");
    k.conv_weight_grad(conv, plan.correlation, plan.pieces.data(), static_cast<int64_t>(plan.pieces.size()),
                       runs.data(), x->floats.data(), grad_out->floats.data(), filters.data(), grads.data(),
                       threads);
    expect_weight_grads();
  }

  void input_grad(const Kernels &k, const Plan &plan, int threads) {
    k.conv_input_grad(conv, 0.1f, plan.correlation, plan.pieces.data(),
                      static_cast<int64_t>(plan.pieces.size()), runs.data(), grad_out->floats.data(),
                      filters.data(), x->floats.data(), extra.data(), grad_in->floats.data(), threads);
    grad_in->expect_written("grad_in");
  }

  void biases(const Kernels &k, int threads) {
    k.bias_grad(conv, runs.data(), run_count(), sets, grad_out->floats.data(), grad_bias.data(), threads);
    expect_finite(grad_bias, "grad_bias");
  }
};

// The plan's sequences cut anew for another transform, whatever the plan holds of it; false if it
// cannot compute them.
bool recut(Plan &plan, int64_t transform) {
  const int64_t taps = plan.correlation.taps, length = kTransforms[transform].length;
  int64_t blocks = 1;
  if (length == 1) {
    blocks = taps;
  } else if (transform == kToomCook) {
    if (taps < 2 || taps > 3) return false;
  } else {
    blocks = (taps + length - 2) / (length - 1);  // two outputs, at least
  }
  std::vector<Segment> segments;
  std::vector<int64_t> counts;
  for (Piece &piece : plan.pieces) {
    piece.transform = transform, piece.blocks = blocks, piece.block_taps = (taps + blocks - 1) / blocks;
    const std::size_t before = segments.size();
    for (int64_t i = 0; i < piece.count;) {
      Segment segment = piece.segments[i];
      int64_t rows = 0;
      for (; i < piece.count && piece.segments[i].run == segment.run &&
             piece.segments[i].sequence == segment.sequence;
           ++i)
        rows += piece.segments[i].count;
      for (segment.first = 0; segment.first < rows; segment.first += piece.outputs()) {
        segment.count = std::min(piece.outputs(), rows - segment.first);
        segments.push_back(segment);
      }
    }
    counts.push_back(static_cast<int64_t>(segments.size() - before));
  }
  plan.segments = std::move(segments);
  const Segment *at = plan.segments.data();
  for (std::size_t i = 0; i < counts.size(); at += counts[i++])
    plan.pieces[i].segments = at, plan.pieces[i].count = counts[i];
  return true;
}

int64_t calls = 0;
bool planned[kTransformCount] = {};  // transforms that plans chose themselves

void run_layer(const Kernels &kernels, const Conv &conv, std::vector<Size> sizes) {
  sizes.erase(std::remove_if(sizes.begin(), sizes.end(),
                             [&](const Size &s) { return s.rows + 2 * conv.padding < conv.taps; }),
              sizes.end());
  std::string layer = std::string("on ") + kernels.name + ", " + std::to_string(conv.in_channels) + " to " +
                      std::to_string(conv.out_channels) + " channels, " + std::to_string(conv.taps) +
                      " taps, stride " + std::to_string(conv.stride) + ", padding " +
                      std::to_string(conv.padding) + ", groups " + std::to_string(conv.groups);
  for (const Size &s : sizes)
    layer += "; set " + std::to_string(s.set) + ": " + std::to_string(s.samples) + " x " +
             std::to_string(s.period) + " sequences of " + std::to_string(s.rows) + " rows";
  for (const int threads : {1, 3}) {
    const std::string where = layer + "; " + std::to_string(threads) + " threads, ";
    if (conv.in_channels == 1 && conv.groups == 1) {
      current = where + "stem";
      Call(conv, Role::stem, sizes).stem(kernels, threads);
      ++calls;
    }
    if (conv.out_channels == 1 && conv.groups == 1) {
      current = where + "head";
      Call(conv, Role::head, sizes).head(kernels, threads);
      ++calls;
    }
    Call call(conv, Role::conv, sizes);
    current = where + "bias";
    call.biases(kernels, threads);
    for (const Pass pass : {Pass::forward, Pass::input_grad}) {
      const auto run = [&](const Plan &plan) {
        pass == Pass::forward ? call.forward(kernels, plan, threads)
                              : call.input_grad(kernels, plan, threads);
        ++calls;
      };
      const std::string name = where + (pass == Pass::forward ? "forward" : "input gradient");
      const auto fresh = [&] { return make_plan(conv, pass, call.runs, call.sets, kernels.width); };
      current = name + " as planned";
      const Plan plan = fresh();
      for (const Piece &piece : plan.pieces) planned[piece.transform] = true;
      run(plan);
      if (threads != (sizes.size() > 1 ? 3 : 1)) continue;
      for (int64_t transform = 0; transform < kTransformCount; ++transform) {
        Plan other = fresh();
        if (!recut(other, transform)) continue;
        current = name + " by transforms of length " + std::to_string(kTransforms[transform].length);
        run(other);
      }
    }
  }
}

void run_layers(const Kernels &kernels) {
  constexpr Conv layers[] = {
      {1, 1, 1, 1, 0, 1, 0.1f},     {1, 32, 5, 3, 2, 1, 0.1f},    {1, 37, 15, 1, 7, 1, 0.1f},
      {1, 9, 200, 1, 100, 1, 1.0f}, {1, 16, 3, 5, 0, 1, 0.1f},    {1, 5, 41, 4, 20, 1, 0.1f},
      {4, 6, 5, 2, 2, 2, 0.1f},     {6, 9, 2, 5, 1, 3, 0.1f},     {3, 5, 4, 3, 0, 1, 0.1f},
      {7, 13, 3, 1, 1, 1, 0.1f},    {8, 8, 11, 1, 30, 1, 0.1f},   {5, 8, 3, 2, 9, 1, 0.1f},
      {6, 6, 41, 4, 20, 6, 0.1f},   {17, 17, 3, 1, 1, 17, 0.1f},  {12, 24, 41, 2, 20, 4, 0.1f},
      {5, 3, 200, 1, 100, 1, 0.1f}, {5, 3, 200, 7, 150, 1, 0.1f}, {33, 17, 5, 3, 2, 1, 0.1f},
      {40, 70, 1, 1, 0, 1, 0.1f},   {130, 40, 2, 1, 1, 1, 0.1f},  {66, 66, 5, 3, 2, 1, 0.1f},
      {32, 20, 5, 1, 2, 1, 0.1f},   {64, 12, 5, 3, 2, 1, 0.1f},   {19, 1, 3, 1, 1, 1, 1.0f},
      {70, 1, 3, 1, 1, 1, 1.0f},    {5, 1, 7, 2, 3, 1, 1.0f},     {4, 1, 1, 3, 0, 1, 1.0f},
  };
  for (const Conv &conv : layers) {
    for (const int64_t rows : {1, 2, 3, 7, 24, 61, 200}) run_layer(kernels, conv, {{0, 1, 1, rows}});
    // Several sets, one without samples, and periods that leave a column short.
    run_layer(kernels, conv, {{0, 2, 3, 9}, {2, 1, 1, 30}, {1, 0, 5, 9}, {0, 1, 2, 1}, {3, 1, 11, 4}});
    run_layer(kernels, conv, {{0, 0, 3, 40}});
  }
  // More segments than one chunk holds, and more groups than one holds.
  run_layer(kernels, {4, 6, 5, 2, 2, 2, 0.1f}, {{0, 130, 2, 9}, {1, 1, 1, 1700}});
  run_layer(kernels, {64, 64, 5, 4, 2, 4, 0.1f}, {{0, 20, 5, 9}});
}

void run_others(const Kernels &kernels) {
  for (const int threads : {1, 3}) {
    current = std::string("on ") + kernels.name + ", " + std::to_string(threads) + " threads, row norms";
    for (int64_t size = 1; size < 140; ++size) {
      const Floats raw = noise(3 * size);
      Floats norms = unwritten(3);
      kernels.row_norms(raw.data(), 3, size, norms.data(), threads);
      expect_finite(norms, "norms");
    }
    current = std::string("on ") + kernels.name + ", " + std::to_string(threads) + " threads, feature L1";
    const int64_t counts[] = {1, 7, kL1Chunk - 1, 16, kL1Chunk, kL1Chunk + 1, 2 * kL1Chunk + 17};
    std::vector<Floats> maps, grads;
    std::vector<MapPair> pairs;
    int64_t chunks = 0;
    for (const int64_t count : counts) {
      for (int i = 0; i < 2; ++i) maps.push_back(noise(count)), grads.push_back(unwritten(count));
      chunks += (count + kL1Chunk - 1) / kL1Chunk;
    }
    for (std::size_t i = 0; i < maps.size(); i += 2)
      pairs.push_back({maps[i].data(), maps[i + 1].data(), grads[i].data(), grads[i + 1].data(),
                       static_cast<int64_t>(maps[i].size())});
    const auto pair_count = static_cast<int64_t>(pairs.size());
    std::vector<double> partial(static_cast<std::size_t>(chunks));
    Floats means = unwritten(pair_count);
    kernels.feature_l1(pairs.data(), pair_count, partial.data(), means.data(), threads);
    expect_finite(means, "means");
    kernels.feature_l1_grad(pairs.data(), pair_count, means.data(), threads);
    for (const Floats &grad : grads) expect_finite(grad, "gradients of maps");
    pairs[0].grad_real = pairs[1].grad_generated = nullptr;
    kernels.feature_l1_grad(pairs.data(), pair_count, means.data(), threads);
    kernels.multiply_add_peak(100, threads);
  }
}

}  // namespace
}  // namespace hifigan

int main() {
  using namespace hifigan;
  __sanitizer_set_death_callback([] { std::fprintf(stderr, "odd_shapes: %s\n", current.c_str()); });
  for (const Kernels *kernels : available_kernels()) {
    calls = 0;
    run_layers(*kernels);
    run_others(*kernels);
    std::printf("%s: %lld calls\n", kernels->name, static_cast<long long>(calls));
    std::fflush(stdout);
  }
  std::printf("lengths that plans chose:");
  for (int64_t i = 0; i < kTransformCount; ++i)
    if (planned[i]) std::printf(" %lld", static_cast<long long>(kTransforms[i].length));
  std::printf("\n");
}
