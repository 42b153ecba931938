#include "plan.h"

#include <algorithm>
#include <cmath>

namespace hifigan {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }  // a >= 0

// Sequences of equal length, as a correlation sees them.
struct Sequences {
  int64_t run, count;
  int64_t operand, operand_rows, rows;  // offset of the first sequence's first row; rows of output
};

// Taps of a sequence's first window that meet padding only, at its start.
int64_t padded_taps(const Correlation &c) { return c.origin < 0 ? -c.origin / c.phases : 0; }

// Whether one circular transform covers a whole sequence: what wraps around must meet zeros, the
// padding that is there at either end.
bool covers(const Correlation &c, const Piece &piece, const Sequences &s) {
  const bool circular = piece.transform > kToomCook && piece.transform < kRowwise;
  if (!circular || piece.blocks > 1) return s.rows <= piece.outputs();
  return s.rows <= piece.outputs() + std::min(padded_taps(c), piece.block_taps - 1) &&
         c.phases * piece.size().length + c.origin >= s.operand_rows;
}

int64_t segments_of(const Correlation &c, const Piece &piece, const Sequences &s) {
  return covers(c, piece, s) ? 1 : ceil_div(s.rows, piece.outputs());
}

// Cycles of one transform of one vector with its loads and stores, roughly, as measured. Toom and Cook's
// is dearer than its dozen additions: it reads and writes as much for three outputs as others for many.
double transform_cost(int64_t length) {
  const auto n = static_cast<double>(length);
  return length == 4 ? 120 : 20 + 2.5 * n * std::log2(n);
}

// The same of filters: a few taps are transformed by the definition.
double filter_cost(const TransformSize &size, int64_t taps) {
  const double by_definition = 5 * static_cast<double>(size.products);
  return taps <= 5 ? by_definition : transform_cost(size.length);
}

// Cycles without a transform: each segment multiplies tiles of its own, and reads all filters, which
// costs only where they are too many for the second cache. `taps`, here and below: those that an output
// row meets, over its phases.
double direct_cost(const Correlation &c, double taps, const std::vector<Sequences> &all, int64_t width) {
  constexpr int64_t tile = 4;
  const double filters = taps * static_cast<double>(c.channels * ceil_div(c.columns, width));  // vectors
  const double bytes = filters * static_cast<double>(4 * width * c.groups), read = bytes > 1 << 20 ? 20 : 0;
  double cycles = 0;
  for (const Sequences &s : all)
    cycles += static_cast<double>(s.count) * (1.2 * static_cast<double>(ceil_div(s.rows, tile) * tile) +
                                              read * static_cast<double>(ceil_div(s.rows, kDirectRows)));
  return filters * cycles;
}

double cost(const Correlation &c, double taps, const Piece &piece, const std::vector<Sequences> &all,
            int64_t width) {
  const TransformSize &size = piece.size();
  int64_t count = 0;
  for (const Sequences &s : all) count += s.count * segments_of(c, piece, s);
  const int64_t windows = piece.blocks * c.phases;
  const auto positions = static_cast<double>(windows * c.channels);
  const auto vectors_in = static_cast<double>(windows * ceil_div(c.channels, width));
  const auto vectors_out = static_cast<double>(ceil_div(c.columns, width));
  const double one = transform_cost(size.length), segments = static_cast<double>(count);
  const double chunks = std::ceil(segments / static_cast<double>(chunk_segments(size)));
  // Phases that lack the last tap need one of Toom and Cook's products less.
  const double skipped =
      piece.transform == kToomCook ? static_cast<double>(c.taps) - taps / static_cast<double>(c.phases) : 0;
  const double products =
      segments * (static_cast<double>(size.products) - skipped) * positions * vectors_out * 1.2;
  return products + one * segments * (vectors_in + vectors_out) +
         filter_cost(size, piece.block_taps) * chunks * positions * vectors_out;
}

Piece without_transform(const Correlation &c, int64_t set) {
  return {set, kDirect, 0, 1, c.taps, nullptr, 0};
}

// Each row by itself, and only by the taps that meet a row of any sequence.
Piece rowwise(const Correlation &c, int64_t set, const std::vector<Sequences> &all) {
  int64_t first = c.taps - 1, last = 0;
  for (const Sequences &s : all) {
    first = std::min(first, std::max<int64_t>(0, padded_taps(c) - (s.rows - 1)));
    last = std::max(last, std::min(c.taps, (s.operand_rows - c.origin - 1) / c.phases + 1) - 1);
  }
  return {set, kRowwise, first, 1, std::max<int64_t>(1, last - first + 1), nullptr, 0};
}

Piece choose(const Correlation &c, int64_t set, double taps, const std::vector<Sequences> &all,
             int64_t width) {
  Piece best = without_transform(c, set);
  double least = direct_cost(c, taps, all, width);
  const auto consider = [&](const Piece &piece) {
    const double here = cost(c, taps, piece, all, width);
    if (here < least) least = here, best = piece;
  };
  consider(rowwise(c, set, all));
  for (int64_t i = 0; i < kRowwise; ++i) {
    if (c.taps == 1 || (i == kToomCook && c.taps > 3)) continue;
    for (int64_t blocks = 1; blocks == 1 || (i != kToomCook && 8 * blocks <= c.taps); ++blocks) {
      const Piece piece{set, i, 0, ceil_div(c.taps, blocks), blocks, nullptr, 0};
      if (piece.outputs() >= 2) consider(piece);
    }
  }
  return best;
}

void cut(const Correlation &c, const Piece &piece, const Sequences &s, std::vector<Segment> &segments) {
  const int64_t count = segments_of(c, piece, s);
  const int64_t step = piece.transform == kDirect ? piece.outputs() : ceil_div(s.rows, count);
  for (int64_t q = 0; q < s.count; ++q)
    for (int64_t i = 0; i < count; ++i) {
      const int64_t first = i * step, rows = std::min(step, s.rows - first);
      if (rows > 0)
        segments.push_back({s.run, q, first, rows, s.operand + q * s.operand_rows, s.operand_rows});
    }
}

}  // namespace

Correlation forward_correlation(const Conv &conv) {
  return {conv.in_channels, conv.in_group(),  conv.stride, -conv.padding, ceil_div(conv.taps, conv.stride),
          conv.taps,        conv.out_group(), conv.groups};
}

// An output row is `stride` input rows, its columns are (phase, input channel); the first output row
// is the first that has an input row in it.
Correlation input_grad_correlation(const Conv &conv) {
  const int64_t taps = ceil_div(conv.taps, conv.stride);
  return {conv.out_channels,
          conv.out_group(),
          1,
          conv.padding / conv.stride - (taps - 1),
          taps,
          taps,
          conv.stride * conv.in_group(),
          conv.groups};
}

Plan make_plan(const Conv &conv, Pass pass, const std::vector<Run> &runs, int64_t sets, int64_t width,
               bool direct) {
  Plan plan;
  plan.correlation = pass == Pass::forward ? forward_correlation(conv) : input_grad_correlation(conv);
  const double taps = static_cast<double>(conv.taps) /
                      static_cast<double>(pass == Pass::forward ? 1 : conv.stride);  // of an output row
  std::vector<std::size_t> ends;
  for (int64_t set = 0; set < sets; ++set) {
    std::vector<Sequences> all;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const Run &run = runs[i];
      if (run.weights != set || !run.sequences()) continue;
      const auto index = static_cast<int64_t>(i);
      if (pass == Pass::forward)
        all.push_back({index, run.sequences(), run.in_offset, run.in_rows, run.out_rows});
      else
        all.push_back({index, run.sequences(), run.grad_out_offset, run.out_rows,
                       ceil_div(run.in_rows + conv.padding, conv.stride) - conv.padding / conv.stride});
    }
    if (all.empty()) continue;
    plan.pieces.push_back(direct ? without_transform(plan.correlation, set)
                                 : choose(plan.correlation, set, taps, all, width));
    for (const Sequences &s : all) cut(plan.correlation, plan.pieces.back(), s, plan.segments);
    ends.push_back(plan.segments.size());
  }
  for (std::size_t i = 0, begin = 0; i < ends.size(); begin = ends[i++]) {
    plan.pieces[i].segments = plan.segments.data() + begin;
    plan.pieces[i].count = static_cast<int64_t>(ends[i] - begin);
  }
  return plan;
}

std::vector<const Kernels *> available_kernels() {
  std::vector<const Kernels *> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
    if (__builtin_cpu_supports("avx512bf16")) found.push_back(&kernels_avx512bf16());
    found.push_back(&kernels_avx512());
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kernels_avx2());
#endif
  found.push_back(&kernels_portable());
  return found;
}

}  // namespace hifigan
