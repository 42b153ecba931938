// One split's gradient of the effective weights and of the bias: out channels by taps × channels of a group,
// summed over tiles of rows. A window of x has what all taps of the block read.

#include "convolution_product.cuh"
#include "convolution_window.cuh"
#include "specialised.cuh"

using Element = x_t;

#include "convolution.cuh"

constexpr int ALL_CHUNKS = TAPS_AT_ONCE * CHUNKS;  // columns are taps × channels
constexpr int STEP = WIDE ? 8 : 16;                // words come one by one, halves by matrices
constexpr int OWN_COLUMNS = ceil_div(ceil_div(ALL_CHUNKS * SIZE, WARPS_ALONG), STEP) * STEP,
              OWN_ROWS = COLUMNS / WARPS_DOWN;
using Product = TileOf<Kind<Element, TF32>, OWN_ROWS, OWN_COLUMNS, true, true, true>::Type;
using Inputs = Window<Element, SLOTS, CHUNKS, STRIDE, TAPS_AT_ONCE, GROUP_IN, IN, WIDE>;
constexpr int PITCH = COLUMNS / SIZE;  // of a tile of grad_out: [row][out channel]
constexpr int GRAD_BYTES = ROWS * PITCH * 16,
              STAGE_BYTES = Inputs::BYTES + GRAD_BYTES + ceil_div(4 * ROWS, 16) * 16;
constexpr int PARTS = ceil_div(GROUP_IN, CHANNELS);
// Words have many addresses, which then differ by numbers; so have 16 rows for what they multiply.
constexpr int UNROLLED = IN_TF32 || OWN_ROWS == 16 ? ROWS / Product::DEPTH : 1;
static_assert(SHARED == STAGES * STAGE_BYTES && STAGES > 1 && ROWS % Product::DEPTH == 0);

// The right operand: of a row of the sum the taps × channels that it reads, wherever the window has them.
struct Read {
  unsigned window, shifts;
  int first;

  DEVICE unsigned row(int eights, int own) const { return window + load_word(shifts + 4 * (eights + own)); }
  DEVICE unsigned at(int own, int chunk) const {
    const bool all = ALL_CHUNKS * SIZE >= OWN_COLUMNS * WARPS_ALONG;
    return Inputs::at(own, all ? first + chunk : min(first + chunk, ALL_CHUNKS - 1));
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    weight_grad(const Element *x, const Element *grad_out, float *partial, float *partial_bias,
                const Run *runs, const Tile *tiles, const Span *splits) {
  const Span span = splits[blockIdx.x];
  const int count = static_cast<int>(span.end - span.begin);
  tiles += span.begin;
  const Columns outs = Columns::of(GROUP_OUT, COLUMNS);
  const int part = blockIdx.z % PARTS * CHANNELS, first_tap = blockIdx.z / PARTS * TAPS_AT_ONCE;
  const int channel = outs.group * GROUP_OUT + outs.first, left = GROUP_OUT - outs.first;
  const unsigned stages = shared_address(shared);

  const auto load = [&](int number, int buffer) {
    const Tile tile = tiles[number];
    const Run &run = runs[tile.run];
    const Rows rows = Rows::of(tile.begin, tile.end, static_cast<int>(run.out_rows));
    const unsigned window = stages + buffer * STAGE_BYTES, grads = window + Inputs::BYTES,
                   shifts = grads + GRAD_BYTES;
    const Element *inputs = x + run.in_offset * IN + outs.group * GROUP_IN;
    const int padding = PADDING - first_tap;
    const auto plan = Inputs::Plan::of(rows, {inputs, static_cast<int>(run.in_rows), padding});
    Inputs::load<THREADS>(window, plan, padding, part);
    const Element *from = grad_out + (run.grad_out_offset + tile.begin) * OUT + channel;
    each_chunk<ROWS, PITCH, THREADS>([&](int row, int chunk) {
      const int own = chunk * SIZE, there = GROUP_OUT % COLUMNS ? left - own : SIZE;
      copy_chunk<copied_at_once<Element>(GROUP_OUT)>(
          grads + swizzled<PITCH, WIDE>(16 * (row * PITCH + chunk)), from + row * OUT + own,
          row < rows.count ? there : 0);
    });
    for (int row = threadIdx.x; row < ROWS; row += THREADS)
      store_word(shifts + 4 * row, Inputs::shift(rows, row));
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
    const Matrix<PITCH, WIDE> left_operand = {grads, warp_down() * (OWN_ROWS / SIZE)};
    const Read right_operand = {window, grads + GRAD_BYTES, warp_along() * (OWN_COLUMNS / SIZE)};
#pragma unroll UNROLLED
    for (int row = 0; row < ROWS; row += Product::DEPTH) {
      product.add_both_turned(row, left_operand, right_operand);
      if (with_bias) product.add_left_turned(row, left_operand, ones);
    }
    product.settle();
    if (with_bias) Product::settle(ones);
  }

  const long long split = blockIdx.x;
  product.template each<4>([&](int row, int column, float (&values)[4]) {
    row += warp_down() * OWN_ROWS, column += warp_along() * OWN_COLUMNS;
    const int tap = first_tap + column / CHANNELS, own = part + column % CHANNELS;
    if (row >= left || column >= TAPS_AT_ONCE * CHANNELS || tap >= TAPS || own >= GROUP_IN) return;
    float *to = partial + ((split * OUT + channel + row) * TAPS + tap) * GROUP_IN + own;
    store_values<GROUP_IN % 4 == 0>(to, GROUP_IN - own, values);
  });
  if (with_bias) {
    Product::each_sum(ones, [&](int row, float sum) {
      row += warp_down() * OWN_ROWS;
      if (row < left) partial_bias[split * OUT + channel + row] = sum;
    });
  }
}
