// One split's gradient of the effective weights and of the bias: out channels by taps × channels of a group, summed over
// tiles of rows. A window of x has what all taps of the block read.

#include "convolution_product.cuh"
#include "convolution_window.cuh"
#include "specialised.cuh"

using Element = x_t;

#include "convolution.cuh"

constexpr int WIDE = sizeof(Element) == 4 && TF32 ? 1 : 0;
constexpr int ALL_CHUNKS = TAPS_AT_ONCE * CHUNKS;  // columns are taps × channels
constexpr int OWN_COLUMNS = ceil_div(ALL_CHUNKS * SIZE, 16 * WARPS_ALONG) * 16, OWN_ROWS = COLUMNS / WARPS_DOWN;
using Product = TileOf<Kind<Element, TF32>, OWN_ROWS, OWN_COLUMNS, true, false, true>::Type;
using Inputs = Window<Element, SLOTS, CHUNKS, STRIDE, TAPS_AT_ONCE, GROUP_IN, IN, WIDE>;
constexpr int PITCH = COLUMNS / SIZE;  // of a tile of grad_out: [row][out channel]
constexpr int GRAD_BYTES = ROWS * PITCH * 16, STAGE_BYTES = Inputs::BYTES + GRAD_BYTES + ceil_div(4 * ROWS, 16) * 16;
constexpr int PARTS = ceil_div(GROUP_IN, CHANNELS);
static_assert(SHARED == STAGES * STAGE_BYTES && STAGES > 1 && ROWS % Product::DEPTH == 0);

// The right operand: of a row of the sum the taps × channels that it reads, wherever the window has them.
struct Read {
  unsigned window, places, first;

  DEVICE unsigned row(int r) const { return load_word(places + 4 * r); }
  DEVICE unsigned at(unsigned row, int chunk) const {
    const int own = first + chunk;
    return Inputs::at(window, row + (ALL_CHUNKS * SIZE < OWN_COLUMNS * WARPS_ALONG ? min(own, ALL_CHUNKS - 1) : own));
  }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    weight_grad(const Element* x, const Element* grad_out, float* partial, float* partial_bias, const Run* runs,
                            const Tile* tiles, const Span* splits) {
  const Span span = splits[blockIdx.x];
  const int count = static_cast<int>(span.end - span.begin);
  tiles += span.begin;
  const Columns outs = Columns::of(GROUP_OUT, COLUMNS);
  const int part = blockIdx.z % PARTS * CHANNELS, first_tap = blockIdx.z / PARTS * TAPS_AT_ONCE;
  const int channel = outs.group * GROUP_OUT + outs.first, left = GROUP_OUT - outs.first;
  const unsigned stages = shared_address(shared);

  const auto load = [&](int number, int buffer) {
    const Tile tile = tiles[number];
    const Run& run = runs[tile.run];
    const Rows rows = Rows::of(tile.begin, tile.end, static_cast<int>(run.out_rows));
    const unsigned window = stages + buffer * STAGE_BYTES, grads = window + Inputs::BYTES, places = grads + GRAD_BYTES;
    const Source<Element> source = {x + run.in_offset * IN + outs.group * GROUP_IN, static_cast<int>(run.in_rows),
                                PADDING - first_tap};
    Inputs::load<THREADS>(window, rows, source, part);
    const Element* from = grad_out + (run.grad_out_offset + tile.begin) * OUT + channel;
    for (int chunk = threadIdx.x; chunk < ROWS * PITCH; chunk += THREADS) {
      const int row = chunk / PITCH, own = chunk % PITCH * SIZE;
      copy_chunk<copied_at_once<Element>(GROUP_OUT)>(grads + 16 * swizzled<PITCH, WIDE>(chunk), from + row * OUT + own,
                                                 grad_out, row < rows.count ? left - own : 0);
    }
    for (int row = threadIdx.x; row < ROWS; row += THREADS) store_word(places + 4 * row, Inputs::slot(rows, row) * CHUNKS);
  };

  Product product;
  typename Product::Ones ones = {};
  product.start([](int) { return 0.0f; });
  const bool with_bias = blockIdx.z == 0 && warp_along() == 0;
  for (int stage = 0; stage < STAGES - 1; ++stage) {
    if (stage < count) load(stage, stage);
    end_group();
  }
  for (int stage = 0; stage < count; ++stage) {
    wait_for_copies<STAGES - 2>();
    __syncthreads();
    const int next = stage + STAGES - 1;
    if (next < count) load(next, next % STAGES);
    end_group();
    const unsigned window = stages + stage % STAGES * STAGE_BYTES, grads = window + Inputs::BYTES;
    const Matrix<PITCH, WIDE> left_operand = {grads, 0, static_cast<unsigned>(warp_down() * (OWN_ROWS / SIZE))};
    const Read right_operand = {window, grads + GRAD_BYTES, static_cast<unsigned>(warp_along() * (OWN_COLUMNS / SIZE))};
    for (int row = 0; row < ROWS; row += Product::DEPTH) {
      product.add_both_turned(row, left_operand, right_operand);
      if (with_bias) product.add_left_turned(row, left_operand, ones);
    }
    product.settle();
    if (with_bias) Product::settle(ones);
  }

  const long long split = blockIdx.x;
  product.template each<4>([&](int row, int column, float(&values)[4]) {
    row += warp_down() * OWN_ROWS, column += warp_along() * OWN_COLUMNS;
    const int tap = first_tap + column / CHANNELS, own = part + column % CHANNELS;
    if (row >= left || column >= TAPS_AT_ONCE * CHANNELS || tap >= TAPS || own >= GROUP_IN) return;
    float* to = partial + ((split * OUT + channel + row) * TAPS + tap) * GROUP_IN + own;
    store_values<GROUP_IN % 4 == 0>(to, GROUP_IN - own, values);
  });
  if (with_bias) {
    Product::each_sum(ones, [&](int row, float sum) {
      row += warp_down() * OWN_ROWS;
      if (row < left) partial_bias[split * OUT + channel + row] = sum;
    });
  }
}
