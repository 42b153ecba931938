// out = leaky(conv(x) + bias): tiles of rows by channels of a group.

#include "convolution_product.cuh"
#include "convolution_window.cuh"
#include "specialised.cuh"

using Element = x_t;

#include "convolution.cuh"

using Product = Choose<WARPGROUPS, WarpgroupTile<Element, WARP_ROWS, WARP_COLUMNS, TAPS_AT_ONCE, CHUNKS>,
                       TileOf<Kind<Element, TF32>, WARP_ROWS, WARP_COLUMNS, false, true, false>::Type>::Type;
using Inputs = Window<Element, SLOTS, CHUNKS, STRIDE, TAPS, GROUP_IN, IN>;
// Of a stage of weights: [column][tap][channel], and for warpgroups [tap][column][channel].
constexpr int PITCH = WARPGROUPS ? CHUNKS : TAPS_AT_ONCE * CHUNKS, TAP_BYTES = COLUMNS * CHUNKS * 16;
using Weights = Matrix<PITCH>;
constexpr int STAGE_BYTES = TAPS_AT_ONCE * TAP_BYTES;
constexpr int PARTS = ceil_div(GROUP_IN, CHANNELS), STEPS = ceil_div(TAPS, TAPS_AT_ONCE);
static_assert(SHARED == WINDOWS * Inputs::BYTES + STAGES * STAGE_BYTES);

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    forward(const Element *x, const Element *weight, const float *bias, Element *out, const Run *runs,
            const Tile *tiles, const Span *spans, float slope) {
  const Span span = spans[blockIdx.x];
  tiles += span.begin;
  const unsigned windows = shared_address(shared), stages = windows + WINDOWS * Inputs::BYTES;
  const Columns columns = Columns::of(GROUP_OUT, COLUMNS);
  const int channel = columns.group * GROUP_OUT + columns.first, left = GROUP_OUT - columns.first;
  const int first_row = warp_down() * WARP_ROWS, first_column = warp_along() * WARP_COLUMNS;
  const long long set = runs[tiles->run].weights;
  const Element *filters = weight + (set * OUT + channel) * (TAPS * GROUP_IN);

  const auto rows_of = [&](const Tile &tile) {
    return Rows::of(tile.begin, tile.end, static_cast<int>(runs[tile.run].out_rows));
  };
  Inputs::Plan plan;
  const auto load_window = [&](const auto &window, int buffer) {
    if (window.part == 0) {
      const Tile tile = tiles[window.tile];
      const Run &run = runs[tile.run];
      const Element *from = x + run.in_offset * IN + columns.group * GROUP_IN;
      plan = Inputs::Plan::of(rows_of(tile), {from, static_cast<int>(run.in_rows), PADDING});
    }
    Inputs::load<THREADS>(windows + buffer * Inputs::BYTES, plan, PADDING, window.part * CHANNELS);
  };
  const auto load_weights = [&](const auto &stage, int buffer) {
    const int part = stage.part * CHANNELS, first_tap = stage.step * TAPS_AT_ONCE;
    if constexpr (WARPGROUPS) {
      const auto inside = [&](int column, int) { return GROUP_OUT % COLUMNS == 0 || column < left; };
#pragma unroll
      for (int tap = 0; tap < TAPS_AT_ONCE; ++tap)
        copy_rows<Weights, COLUMNS, CHUNKS, TAPS * GROUP_IN, THREADS>(
            stages + buffer * STAGE_BYTES + tap * TAP_BYTES, filters + ((first_tap + tap) * GROUP_IN + part),
            inside);
      return;
    }
    each_chunk<COLUMNS, PITCH, THREADS>([&](int column, int chunk) {
      const int tap = first_tap + chunk / CHUNKS, own = part + chunk % CHUNKS * SIZE;
      const bool inside =
          (GROUP_OUT % COLUMNS == 0 || column < left) && (TAPS % TAPS_AT_ONCE == 0 || tap < TAPS);
      const int there = GROUP_IN % CHANNELS ? GROUP_IN - own : SIZE;
      copy_chunk<copied_at_once<Element>(GROUP_IN)>(
          stages + buffer * STAGE_BYTES + Weights::place(column, chunk),
          filters + (column * TAPS + tap) * GROUP_IN + own, inside ? there : 0);
    });
  };

  Product product;
  unsigned shifts[Product::OWN_ROWS];  // of this lane's rows in the window
  const auto begin = [&](int tile) {
    const Rows rows = rows_of(tiles[tile]);
#pragma unroll
    for (int i = 0; i < Product::OWN_ROWS; ++i)
      shifts[i] = Inputs::shift(rows, first_row + Product::own_row(i));
    const float *own = bias + set * OUT + channel;
    product.start(
        [&](int column) { return first_column + column < left ? own[first_column + column] : 0.0f; });
  };
  const auto multiply = [&](int window, int stage, int step) {
    constexpr int ALL = TAPS_AT_ONCE * CHUNKS;
    const int first = step * ALL, depth = TAPS % TAPS_AT_ONCE ? min(TAPS * CHUNKS - first, ALL) : ALL;
    const WindowRows<Inputs, Product::OWN_ROWS> inputs = {windows + window * Inputs::BYTES,
                                                          Product::own_row(0) % 8, first, shifts};
    const Weights own = {stages + stage * STAGE_BYTES + 16 * first_column * PITCH, 0};
    add_chunks(
        product, depth, [&](int chunk) { product.add(chunk, inputs, own); },
        [&](int chunk) { product.add_chunk(chunk, inputs, own); });
  };
  const auto finish = [&](int tile) {
    const Tile place = tiles[tile];
    const int count = static_cast<int>(place.end - place.begin);
    Element *to = out + (runs[place.run].out_offset + place.begin) * OUT + channel;
    product.each<SIZE>([&](int row, int column, float (&values)[SIZE]) {
      row += first_row, column += first_column;
      if (row >= count || column >= left) return;
#pragma unroll
      for (float &value : values) value = value > 0 ? value : value * slope;
      store_values<GROUP_OUT % SIZE == 0>(to + row * OUT + column, left - column, values);
    });
  };
  walk<PARTS, STEPS, STAGES, WINDOWS, WARPGROUPS>(static_cast<int>(span.end - span.begin), load_window,
                                                  load_weights, begin, multiply, finish);
}
