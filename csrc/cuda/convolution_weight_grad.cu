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
// By warpgroups it is turned: rows are taps × channels, of which each of the two has some taps, columns out
// channels.
template <int OWN_TAPS>
using Turned = WarpgroupTile<Element, 16 * OWN_TAPS, COLUMNS, 1, ROWS / 8, 2>;
constexpr int OWN_OUTS = 32;  // of each of four warps
using Bias = MatrixTile<Element, OWN_OUTS, 8, false, false>;
using Inputs = Window<Element, SLOTS, CHUNKS, STRIDE, TAPS_AT_ONCE, GROUP_IN, IN, WIDE>;
constexpr int PITCH = COLUMNS / SIZE;  // of a tile of grad_out: [row][out channel]
constexpr int GRAD_BYTES = ROWS * PITCH * 16, ALIGNED = WARPGROUPS ? 1024 : 16,
              STAGE_BYTES = ceil_div(Inputs::BYTES + GRAD_BYTES + 4 * ROWS, ALIGNED) * ALIGNED;
using Grads = Choose<WARPGROUPS, Panels<ROWS>, Matrix<PITCH, WIDE>>::Type;
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

// The same as a left operand, of whose rows each 16 are of the next tap.
struct ReadByTaps : Read {
  DEVICE unsigned at(int own, int chunk) const {
    return Inputs::at(own, first + chunk / 2 * CHUNKS + chunk % 2);
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
      copy_chunk<copied_at_once<Element>(GROUP_OUT)>(grads + Grads::place(row, chunk), from + row * OUT + own,
                                                     row < rows.count ? there : 0);
    });
    for (int row = threadIdx.x; row < ROWS; row += THREADS)
      store_word(shifts + 4 * row, Inputs::shift(rows, row));
  };

  const auto walk = [&](auto multiply) {
    walk_tiles<STAGES, WARPGROUPS>(count, load, [&](int buffer) { multiply(stages + buffer * STAGE_BYTES); });
  };
  const long long split = blockIdx.x;
  const auto place = [&](int out, int tap, int own) {
    return partial + ((split * OUT + channel + out) * TAPS + tap) * GROUP_IN + own;
  };
  const auto store_bias = [&](int out, float sum) {
    if (out < left) partial_bias[split * OUT + channel + out] = sum;
  };

  const auto by_warps = [&](auto product) {
    typename decltype(product)::Ones ones = {};
    product.start([](int) { return 0.0f; });
    const bool with_bias = blockIdx.z == 0 && warp_along() == 0;
    walk([&](unsigned window) {
      const unsigned grads = window + Inputs::BYTES;
      const Grads left_operand = {grads, warp_down() * (OWN_ROWS / SIZE)};
      const Read right_operand = {window, grads + GRAD_BYTES, warp_along() * (OWN_COLUMNS / SIZE)};
#pragma unroll UNROLLED
      for (int row = 0; row < ROWS; row += Product::DEPTH) {
        product.add_both_turned(row, left_operand, right_operand);
        if (with_bias) product.add_left_turned(row, left_operand, ones);
      }
      product.settle();
      if (with_bias) product.settle(ones);
    });
    product.template each<4>([&](int row, int column, float (&values)[4]) {
      row += warp_down() * OWN_ROWS, column += warp_along() * OWN_COLUMNS;
      const int tap = first_tap + column / CHANNELS, own = part + column % CHANNELS;
      if (row >= left || column >= TAPS_AT_ONCE * CHANNELS || tap >= TAPS || own >= GROUP_IN) return;
      store_values<GROUP_IN % 4 == 0>(place(row, tap, own), GROUP_IN - own, values);
    });
    if (with_bias) {
      product.each_sum(ones, [&](int row, float sum) { store_bias(warp_down() * OWN_ROWS + row, sum); });
    }
  };

  // Taps from the FIRST on. Biases' gradients are the second one's, which has the fewer taps, by warps as
  // before.
  const auto by_a_warpgroup = [&](auto taps, auto before) {
    constexpr int FIRST = decltype(before)::value;
    Turned<decltype(taps)::value> product;
    typename Bias::Ones ones = {};
    product.start([](int) { return 0.0f; });
    const bool with_bias = FIRST > 0 && blockIdx.z == 0;
    const int warp = threadIdx.x / 32 % 4, own_chunk = warp * 2;
    walk([&](unsigned window) {
      const unsigned grads = window + Inputs::BYTES;
      const ReadByTaps left_operand = {window, grads + GRAD_BYTES, FIRST * CHUNKS + own_chunk};
#pragma unroll
      for (int row = 0; row < ROWS; row += 16) product.add_both_turned(row, left_operand, Grads{grads, 0});
      if (!with_bias) return;
#pragma unroll 2
      for (int row = 0; row < ROWS; row += 16)
        Bias::add_left_turned(row, Grads{grads, OWN_OUTS / SIZE * warp}, ones);
    });
    product.each_one([&](int i, int row, int out, float value) {
      const int tap = first_tap + FIRST + i;
      if (out < left && tap < TAPS) *place(out, tap, part + own_chunk * SIZE + row) = value;
    });
    if (with_bias) Bias::each_sum(ones, [&](int row, float sum) { store_bias(OWN_OUTS * warp + row, sum); });
  };

  const auto run = [&](auto taps) {  // of the first warpgroup
    constexpr int FIRST = decltype(taps)::value;
    if constexpr (!FIRST) {
      by_warps(Product());
    } else if (threadIdx.x < THREADS / 2) {
      by_a_warpgroup(taps, Number<0>());
    } else {
      by_a_warpgroup(Number<TAPS_AT_ONCE - FIRST>(), taps);
    }
  };
  run(Number<WARPGROUPS ? ceil_div(TAPS_AT_ONCE, 2) : 0>());
}
