// grad_in = (convᵀ(grad_out) + map_grad) · leaky'(saved): tiles of rows of one phase by channels of a group.
// With `matching`, map_grads are the other side's maps, and matching · sign(saved - map) is added.
//
// Input rows i with (i + PADDING) % STRIDE = phase meet taps phase, phase + STRIDE, … and no other: their
// gradient is a convolution of grad_out with these taps, the last one first, whose stride is 1.

#include "convolution_product.cuh"
#include "convolution_window.cuh"
#include "specialised.cuh"

using Element = grad_out_t;

#include "convolution.cuh"

constexpr int MOST = ceil_div(TAPS, STRIDE);  // taps of a phase
using Product = Choose<WARPGROUPS, WarpgroupTile<Element, WARP_ROWS, WARP_COLUMNS, TAPS_AT_ONCE, CHUNKS>,
                       TileOf<Kind<Element, TF32>, WARP_ROWS, WARP_COLUMNS, false, true, false>::Type>::Type;
using Grads = Window<Element, SLOTS, CHUNKS, 1, MOST, GROUP_OUT, OUT>;
constexpr int PITCH = COLUMNS / SIZE;  // of a stage of weights: [tap][channel of grad_out][column]
constexpr int STAGE_ROWS = TAPS_AT_ONCE * CHANNELS, STAGE_BYTES = STAGE_ROWS * PITCH * 16;
using Weights = Choose<WARPGROUPS, Panels<STAGE_ROWS>, Matrix<PITCH, WIDE>>::Type;
constexpr int PARTS = ceil_div(GROUP_OUT, CHANNELS), STEPS = ceil_div(MOST, TAPS_AT_ONCE);
constexpr bool WHOLE = GROUP_IN % SIZE == 0;
static_assert(SHARED == WINDOWS * Grads::BYTES + STAGES * STAGE_BYTES);

// What one phase of a run is: `count` taps; its first row of a sequence; of a row, the latest row of grad_out
// that it meets is `shift` further; `rows` a sequence.
struct Phase {
  int phase, count, first, shift, rows;

  static DEVICE Phase of(const Run &run, long long number) {
    const int phase = static_cast<int>(number), first = (phase + STRIDE * PADDING - PADDING) % STRIDE;
    const int rows = static_cast<int>(run.in_rows) - first;
    return {phase, ceil_div(TAPS - phase, STRIDE), first, (first + PADDING - phase) / STRIDE,
            ceil_div(rows, STRIDE)};
  }
};

DEVICE float with_match(float sum, float saved, float other, float scale) {
  return sum + (saved > other ? scale : saved < other ? -scale : saved - other);  // 0 or NaN
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    input_grad(const Element *grad_out, const Element *weight, const Element *saved,
               const Pointers<const Element, map_grads_n> map_grads, const float *matching, Element *grad_in,
               const Run *runs, const PhaseTile *tiles, const Span *spans, float slope) {
  const Span span = spans[blockIdx.x];
  tiles += span.begin;
  const unsigned windows = shared_address(shared), stages = windows + WINDOWS * Grads::BYTES;
  const Columns columns = Columns::of(GROUP_IN, COLUMNS);
  const int channel = columns.group * GROUP_IN + columns.first, left = GROUP_IN - columns.first;
  const int first_row = warp_down() * WARP_ROWS, first_column = warp_along() * WARP_COLUMNS;
  const Element *filters = weight +
                           (runs[tiles->run].weights * OUT + columns.group * GROUP_OUT) * (TAPS * GROUP_IN) +
                           columns.first;

  const auto phase_of = [&](const PhaseTile &tile) { return Phase::of(runs[tile.run], tile.phase); };
  Grads::Plan plan;
  int padding = 0;
  const auto load_window = [&](const auto &window, int buffer) {
    if (window.part == 0) {
      const PhaseTile tile = tiles[window.tile];
      const Run &run = runs[tile.run];
      const Phase phase = phase_of(tile);
      const Element *from = grad_out + run.grad_out_offset * OUT + columns.group * GROUP_OUT;
      padding = phase.count - 1 - phase.shift;
      plan = Grads::Plan::of(Rows::of(tile.begin, tile.end, phase.rows),
                             {from, static_cast<int>(run.out_rows), padding});
    }
    Grads::load<THREADS>(windows + buffer * Grads::BYTES, plan, padding, window.part * CHANNELS);
  };
  const auto load_weights = [&](const auto &stage, int buffer) {
    const int phase = static_cast<int>(tiles[stage.tile].phase), count = ceil_div(TAPS - phase, STRIDE);
    const int part = stage.part * CHANNELS, first = stage.step * TAPS_AT_ONCE;
    if constexpr (WARPGROUPS) {
      const int tap = phase + (count - 1 - first) * STRIDE;
      const bool there = first < count;
      const auto inside = [&](int, int chunk) {
        return there && (GROUP_IN % COLUMNS == 0 || chunk * SIZE < left);
      };
      return copy_rows<Weights, STAGE_ROWS, PITCH, TAPS * GROUP_IN, THREADS>(
          stages + buffer * STAGE_BYTES, filters + (part * TAPS + tap) * GROUP_IN, inside);
    }
    each_chunk<STAGE_ROWS, PITCH, THREADS>([&](int row, int chunk) {
      const int number = first + row / CHANNELS, own = part + row % CHANNELS, column = chunk * SIZE;
      const int tap = phase + (count - 1 - number) * STRIDE;
      const bool inside = (GROUP_OUT % CHANNELS == 0 || own < GROUP_OUT) && number < count;
      const int there = GROUP_IN % COLUMNS ? left - column : SIZE;
      copy_chunk<copied_at_once<Element>(GROUP_IN)>(
          stages + buffer * STAGE_BYTES + Weights::place(row, chunk),
          filters + (own * TAPS + tap) * GROUP_IN + column, inside ? there : 0);
    });
  };

  Product product;
  unsigned shifts[Product::OWN_ROWS];  // of this lane's rows in the window
  int count = 0;                       // taps
  const auto begin = [&](int number) {
    const PhaseTile tile = tiles[number];
    const Phase phase = phase_of(tile);
    const Rows rows = Rows::of(tile.begin, tile.end, phase.rows);
    count = phase.count;
#pragma unroll
    for (int i = 0; i < Product::OWN_ROWS; ++i)
      shifts[i] = Grads::shift(rows, first_row + Product::own_row(i));
    product.start([](int) { return 0.0f; });
  };
  const auto multiply = [&](int window, int stage, int step) {
    const int first = step * TAPS_AT_ONCE, depth = min(count - first, TAPS_AT_ONCE) * CHUNKS;
    const WindowRows<Grads, Product::OWN_ROWS> grads = {windows + window * Grads::BYTES,
                                                        Product::own_row(0) % 8, first * CHUNKS, shifts};
    const Weights own = {stages + stage * STAGE_BYTES, first_column / SIZE};
    add_chunks(
        product, depth, [&](int chunk) { product.add_right_turned(chunk, grads, own); },
        [&](int chunk) { product.add_chunk_right_turned(chunk, grads, own); });
  };
  const auto finish = [&](int number) {
    const PhaseTile tile = tiles[number];
    const Run &run = runs[tile.run];
    const Phase phase = phase_of(tile);
    const Rows rows = Rows::of(tile.begin, tile.end, phase.rows);
    const Element *stored = saved + run.in_offset * IN, *given = nullptr;
#pragma unroll
    for (int run = 0; run < map_grads_n; ++run) given = run == tile.run ? map_grads.of[run] : given;
    Element *to = grad_in + run.grad_in_offset * IN;
    const float scale = matching ? matching[tile.run] : 0.0f;
    product.each<SIZE>([&](int row, int column, float (&values)[SIZE]) {
      row += first_row, column += first_column;
      if (row >= rows.count || column >= left) return;
      const int further = rows.further(row), step = rows.first + row - further * rows.each;
      const long long in_row = (rows.sequence + further) * run.in_rows + phase.first + step * STRIDE;
      const long long at = in_row * IN + channel + column;
      float own[SIZE], others[SIZE];
      load_values<WHOLE>(stored + at, left - column, own);
      if (given) load_values<WHOLE>(given + at, left - column, others);
#pragma unroll
      for (int n = 0; n < SIZE; ++n) {
        float sum = values[n];
        if (given) sum = matching ? with_match(sum, own[n], others[n], scale) : sum + others[n];
        values[n] = own[n] > 0 ? sum : sum * slope;
      }
      store_values<WHOLE>(to + at, left - column, values);
    });
  };
  walk<PARTS, STEPS, STAGES, WINDOWS, WARPGROUPS>(static_cast<int>(span.end - span.begin), load_window,
                                                  load_weights, begin, multiply, finish);
}
