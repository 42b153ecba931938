// Runs every kernel over odd shapes, on buffers of exactly the floats that it may touch, under
// AddressSanitizer and UndefinedBehaviorSanitizer (`make sanitize`). Numbers are held against plain
// PyTorch in tests/: here all that a kernel shall write must be finite, and all else as it was.
#include <sanitizer/common_interface_defs.h>

#include <memory>
#include <new>

#include "../cpu/memory.h"
#include "layer.h"

extern "C" __attribute__((visibility("default"))) const char *__ubsan_default_options() {
  return "print_stacktrace=1";
}

namespace hifigan {

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

// The plan's sequences cut anew for another transform, whatever the plan holds of it; false if it
// cannot compute them.
bool recut(Plan &plan, int64_t transform) {
  const int64_t taps = plan.correlation.taps, length = kTransforms[transform].length;
  int64_t blocks = 1;
  if (transform == kToomCook) {
    if (taps < 2 || taps > 3) return false;
  } else if (transform == kRowwise) {
    blocks = taps;
  } else {
    blocks = (taps + length - 2) / (length - 1);  // two outputs, at least
  }
  std::vector<Segment> segments;
  std::vector<int64_t> counts;
  for (Piece &piece : plan.pieces) {
    piece.transform = transform, piece.first_tap = 0;
    piece.blocks = blocks, piece.block_taps = (taps + blocks - 1) / blocks;
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
bool planned[1 + kTransformCount] = {};  // none and transforms that plans chose themselves

std::string describe(const Conv &conv, const std::vector<Size> &sizes) {
  const auto text = [](int64_t number) { return std::to_string(number); };
  std::string all = text(conv.in_channels) + " to " + text(conv.out_channels) + " channels, " +
                    text(conv.taps) + " taps, stride " + text(conv.stride) + ", padding " +
                    text(conv.padding) + ", groups " + text(conv.groups);
  for (const Size &s : sizes)
    all += "; set " + text(s.set) + ": " + text(s.samples) + " x " + text(s.period) + " sequences of " +
           text(s.rows) + " rows";
  return all;
}

// A layer in every role that it can have. `others`: by every transform, too, not only the planned one.
template <class T>
void run_layer(const Kernels &kernels, const Conv &conv, const std::vector<Size> &sizes, int threads,
               bool others) {
  const std::string where = std::string(kernels.name) + (sizeof(T) == 2 ? ", bfloat16 maps, " : ", ") +
                            std::to_string(threads) + " threads, " + describe(conv, sizes) + ": ";
  const auto layer = [&](Role role) {
    ++calls;
    return Layer<T>(kernels.of<T>(), conv, role, sizes, threads);
  };
  current = where + "stem";
  if (conv.in_channels == 1 && conv.groups == 1) layer(Role::stem).stem();
  current = where + "head";
  if (conv.out_channels == 1 && conv.groups == 1) layer(Role::head).head();
  Layer<T> as_conv = layer(Role::conv);
  current = where + "bias";
  as_conv.biases();
  auto x = as_conv.inputs(), out = as_conv.results();
  auto grad_in = as_conv.input_grads(), grad_out = as_conv.output_grads();
  for (const Pass pass : {Pass::forward, Pass::input_grad})
    for (int64_t way = -1; way <= (others ? kTransformCount : 0); ++way) {  // planned, directly, transforms
      Plan plan = make_plan(conv, pass, as_conv.runs, as_conv.sets, kernels.width, way == 0);
      current = where + (pass == Pass::forward ? "forward" : "input gradient");
      if (way < 0)
        for (const Piece &piece : plan.pieces) planned[piece.transform + 1] = true;
      if (way == 0) current += " directly";
      if (way > 0) {
        if (!recut(plan, way - 1)) continue;
        current += " by transforms of length " + std::to_string(kTransforms[way - 1].length);
      }
      if (pass == Pass::forward)
        as_conv.forward(plan, x, out, grad_out);
      else
        as_conv.input_grad(plan, x, grad_in, grad_out);
      ++calls;
    }
}

template <class T>
void run_layers(const Kernels &kernels) {
  constexpr Conv layers[] = {
      {1, 1, 1, 1, 0, 1, 0.1f},     {1, 32, 5, 3, 2, 1, 0.1f},    {1, 37, 15, 1, 7, 1, 0.1f},
      {1, 9, 200, 1, 100, 1, 1.0f}, {1, 16, 3, 5, 0, 1, 0.1f},    {1, 5, 41, 4, 20, 1, 0.1f},
      {4, 6, 5, 2, 2, 2, 0.1f},     {6, 9, 2, 5, 1, 3, 0.1f},     {3, 5, 4, 3, 0, 1, 0.1f},
      {7, 13, 3, 1, 1, 1, 0.1f},    {8, 8, 11, 1, 30, 1, 0.1f},   {5, 8, 3, 2, 9, 1, 0.1f},
      {6, 6, 41, 4, 20, 6, 0.1f},   {9, 9, 3, 1, 1, 9, 0.1f},     {12, 24, 41, 2, 20, 4, 0.1f},
      {5, 3, 200, 1, 100, 1, 0.1f}, {5, 3, 200, 7, 150, 1, 0.1f}, {33, 17, 5, 3, 2, 1, 0.1f},
      {40, 70, 1, 1, 0, 1, 0.1f},   {130, 40, 2, 1, 1, 1, 0.1f},  {80, 48, 3, 2, 1, 1, 0.1f},
      {32, 20, 5, 1, 2, 1, 0.1f},   {64, 12, 5, 3, 2, 1, 0.1f},   {19, 1, 3, 1, 1, 1, 1.0f},
      {70, 1, 3, 1, 1, 1, 1.0f},    {5, 1, 7, 2, 3, 1, 1.0f},     {4, 1, 1, 3, 0, 1, 1.0f},
  };
  const auto run = [&](const Conv &conv, std::vector<Size> sizes, int threads, bool others) {
    const auto is_short = [&](const Size &s) { return s.rows + 2 * conv.padding < conv.taps; };
    sizes.erase(std::remove_if(sizes.begin(), sizes.end(), is_short), sizes.end());
    run_layer<T>(kernels, conv, sizes, threads, others);
  };
  for (const Conv &conv : layers) {
    for (const int64_t rows : {1, 2, 3, 7, 24, 61, 200}) run(conv, {{0, 1, 1, rows}}, 1, rows == 61);
    // Several sets, one without samples, and periods that leave the last row short.
    const std::vector<Size> mixed = {{0, 2, 3, 9}, {2, 1, 1, 30}, {1, 0, 5, 9}, {0, 1, 2, 1}, {3, 1, 11, 4}};
    run(conv, mixed, 1, false);
    run(conv, mixed, 3, true);
    run(conv, {{0, 0, 3, 40}}, 3, false);
    run(conv, {}, 3, false);
  }
  // More segments than one chunk holds, and more groups than the memory of one thread.
  for (const int threads : {1, 3})
    run({4, 6, 5, 2, 2, 2, 0.1f}, {{0, 130, 2, 9}, {1, 1, 1, 1700}}, threads, threads == 3);
  run({32, 32, 5, 4, 2, 2, 0.1f}, {{0, 20, 5, 9}}, 1, true);
  // Columns so short, and filters so many, that rows are multiplied by themselves, by some of the taps.
  run({320, 330, 5, 1, 2, 1, 0.1f}, {{0, 3, 7, 1}, {1, 2, 5, 2}, {2, 1, 1, 3}}, 3, false);
  run({320, 330, 5, 3, 2, 1, 0.1f}, {{0, 3, 7, 2}, {1, 2, 5, 1}, {2, 1, 1, 9}}, 3, false);
}

template <class T>
void run_feature_l1(const Kernels &kernels, int threads) {
  const int64_t counts[] = {1, 7, kL1Chunk - 1, 16, kL1Chunk, kL1Chunk + 1, 2 * kL1Chunk + 17};
  std::vector<std::vector<T>> maps, grads;
  std::vector<MapPair<T>> pairs;
  int64_t chunks = 0;
  for (const int64_t count : counts) {
    for (int i = 0; i < 2; ++i) maps.push_back(noise<T>(count)), grads.push_back(unwritten<T>(count));
    chunks += (count + kL1Chunk - 1) / kL1Chunk;
  }
  for (std::size_t i = 0; i < maps.size(); i += 2)
    pairs.push_back({maps[i].data(), maps[i + 1].data(), grads[i].data(), grads[i + 1].data(),
                     static_cast<int64_t>(maps[i].size())});
  const auto pair_count = static_cast<int64_t>(pairs.size());
  std::vector<double> partial(static_cast<std::size_t>(chunks));
  Floats means = unwritten(pair_count);
  const Floats by = noise(pair_count);
  current = std::string(kernels.name) + ", " + std::to_string(threads) + " threads: feature L1";
  kernels.of<T>().feature_l1(pairs.data(), pair_count, partial.data(), means.data(), threads);
  expect_written(means, "means");
  kernels.of<T>().feature_l1_grad(pairs.data(), pair_count, by.data(), threads);
  for (auto &grad : grads) expect_written(grad, "gradients of maps");
  pairs[0].grad_real = pairs[1].grad_generated = nullptr;
  kernels.of<T>().feature_l1_grad(pairs.data(), pair_count, by.data(), threads);
}

void run_row_norms(const Kernels &kernels, int threads) {
  current = std::string(kernels.name) + ", " + std::to_string(threads) + " threads: row norms";
  for (int64_t size = 1; size < 140; ++size) {
    const Floats raw = noise(3 * size);
    Floats norms = unwritten(3);
    kernels.row_norms(raw.data(), 3, size, norms.data(), threads);
    expect_written(norms, "norms");
  }
}

}  // namespace
}  // namespace hifigan

int main() {
  using namespace hifigan;
  __sanitizer_set_death_callback([] { std::fprintf(stderr, "odd_shapes: %s\n", current.c_str()); });
  for (const Kernels *kernels : available_kernels()) {
    calls = 0;
    run_layers<float>(*kernels);
    run_layers<BFloat16>(*kernels);
    for (const int threads : {1, 3}) {
      run_feature_l1<float>(*kernels, threads);
      run_feature_l1<BFloat16>(*kernels, threads);
      run_row_norms(*kernels, threads);
      kernels->multiply_add_peak(100, threads);
    }
    std::printf("%s: %lld calls\n", kernels->name, static_cast<long long>(calls));
    std::fflush(stdout);
  }
  std::printf("lengths that plans chose:");
  if (!planned[0]) fail("no layer without a transform");
  if (!planned[1 + kRowwise]) fail("no layer row by row");
  for (int64_t i = 0; i < kTransformCount; ++i)
    if (planned[i + 1]) std::printf(" %lld", static_cast<long long>(kTransforms[i].length));
  std::printf("\n");
}
