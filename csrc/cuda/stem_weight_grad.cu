// One split's gradient of a stem's filters and biases, of BM channels: tiles of BK rows, whose gradient is
// read once. In half precision matrix units multiply, samples rounded as PyTorch's are; else fused
// multiply-adds.
#include "chunks.cuh"
#include "matrix_units.cuh"
#include "stem.cuh"

constexpr int EACH = sizeof(grad_out_t) == 2 && BM > 32 ? 8 : 4;  // channels of a thread, side by side
constexpr int WARPS = THREADS / 32;
constexpr bool WHOLE = OUT % EACH == 0;
static_assert(TAPS <= 16 && BM % 32 == 0 && BM <= WARPS * 8 * EACH);

using Samples = Window<grad_out_t, BK>;

// What the warps add up, one after another: of each tap, and of the bias. Channels that lanes have at once
// lie side by side.
struct Totals {
  alignas(8) float of[TAPS + 1][BM + 8];

  static inline int column(int channel) { return channel % EACH * (BM / EACH) + channel / EACH; }
};

// Rows of the product are taps, and the bias's, by which ones are multiplied; column n of the jth matrix is
// channel EACH · n + j.
template <class T>
struct MatrixUnits {
  static constexpr int PANEL = 8 * EACH, ALONG = BM / PANEL, DOWN = WARPS / ALONG,
                       HIGH = ceil_div(TAPS + 1, 16);

  float sums[HIGH][EACH][4] = {};

  // This warp's part of a tile: of the gradient's rows from `grads` on, of which so many are there.
  inline void add(const Samples &samples, const T *grads, int rows) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first = blockIdx.y * BM + warp % ALONG * PANEL + lane / 4 * EACH;
#pragma unroll 1
    for (int step = 0; step < BK; step += DOWN * 16) {
      const int above = step + warp / ALONG * 16;
      T own[4][EACH];
      int places[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = above + i / 2 * 8 + lane % 4 * 2 + i % 2;
        load<WHOLE>(own[i], grads + static_cast<long long>(row) * OUT + first, row < rows ? OUT - first : 0);
        places[i] = samples.places[row];
      }
#pragma unroll
      for (int high = 0; high < HIGH; ++high) {
        unsigned taps[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int least = high * 16 + i % 2 * 8, tap = least + lane / 4;
          T low = narrow<T>(tap == TAPS ? 1 : 0), next = low;
          if (least < TAPS && tap < TAPS) {
            low = samples.slots[places[i / 2 * 2] + tap];
            next = samples.slots[places[i / 2 * 2 + 1] + tap];
          }
          taps[i] = word(low, next);
        }
#pragma unroll
        for (int j = 0; j < EACH; ++j)
          multiply<T>(sums[high][j], taps, {word(own[0][j], own[1][j]), word(own[2][j], own[3][j])});
      }
    }
  }

  inline void add_up(Totals &totals) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, beside = warp % ALONG * 8 + lane % 4 * 2;
    for (int turn = 0; turn < DOWN; ++turn) {
      if (warp / ALONG == turn) {
#pragma unroll
        for (int i = 0; i < HIGH * EACH * 2; ++i) {
          const int j = i / 2 % EACH, high = i / 2 / EACH, row = high * 16 + i % 2 * 8 + lane / 4;
          if (row > TAPS) continue;
          float2 &total = *reinterpret_cast<float2 *>(&totals.of[row][j * (BM / EACH) + beside]);
          const float *own = &sums[high][j][i % 2 * 2];
          total = turn ? make_float2(total.x + own[0], total.y + own[1]) : make_float2(own[0], own[1]);
        }
      }
      __syncthreads();
    }
  }
};

// A thread has all taps of its channels, of some rows.
struct MultiplyAdds {
  static constexpr int LANES = BM / EACH, SLOTS = THREADS / LANES;

  float sums[EACH][TAPS + 1] = {};

  inline void add(const Samples &samples, const grad_out_t *grads, int rows) {
    const int first = blockIdx.y * BM + threadIdx.x % LANES * EACH;
#pragma unroll 4
    for (int row = threadIdx.x / LANES; row < min(BK, rows); row += SLOTS) {
      float own[EACH];
      load<WHOLE>(own, grads + static_cast<long long>(row) * OUT + first, OUT - first);
      const int place = samples.places[row];
#pragma unroll
      for (int tap = 0; tap <= TAPS; ++tap) {
        const float value = tap < TAPS ? wide(samples.slots[place + tap]) : 1;
#pragma unroll
        for (int n = 0; n < EACH; ++n) sums[n][tap] += value * own[n];
      }
    }
  }

  inline void add_up(Totals &totals) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = threadIdx.x % LANES;
#pragma unroll
    for (int i = 0; i < EACH * (TAPS + 1); ++i)
      for (int by = LANES; by < 32; by *= 2) {
        float &own = sums[i % EACH][i / EACH];
        own += __shfl_xor_sync(0xFFFFFFFF, own, by);
      }
    for (int turn = 0; turn < WARPS; ++turn) {
      if (warp == turn && lane < LANES) {
#pragma unroll
        for (int i = 0; i < EACH * (TAPS + 1); ++i) {
          float &total = totals.of[i / EACH][i % EACH * LANES + column];
          total = turn ? total + sums[i % EACH][i / EACH] : sums[i % EACH][i / EACH];
        }
      }
      __syncthreads();
    }
  }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    weight_grad(const x_t *x, const grad_out_t *grad_out, float *partial, float *partial_bias,
                const long long *runs, const long long *tiles, const long long *splits) {
  __shared__ Samples samples;
  __shared__ Totals totals;
  Choose<sizeof(grad_out_t) == 2, MatrixUnits<grad_out_t>, MultiplyAdds>::Type product;
  for (long long tile = splits[2 * blockIdx.x]; tile < splits[2 * blockIdx.x + 1]; ++tile) {
    const long long *run = runs + tiles[2 * tile] * RUN_FIELDS;
    const int begin = tiles[2 * tile + 1];
    __syncthreads();  // others read the last tile's
    samples.fill(x, run, begin);
    __syncthreads();
    product.add(samples, grad_out + (run[RUN_GRAD_OUT_OFFSET] + begin) * OUT, rows_of(run) - begin);
  }
  product.add_up(totals);
  const long long above = static_cast<long long>(blockIdx.x) * OUT + blockIdx.y * BM;
  const int channels = min(BM, OUT - static_cast<int>(blockIdx.y) * BM);
  for (int i = threadIdx.x; i < channels * TAPS; i += THREADS)
    partial[above * TAPS + i] = totals.of[i % TAPS][Totals::column(i / TAPS)];
  for (int i = threadIdx.x; i < channels; i += THREADS)
    partial_bias[above + i] = totals.of[TAPS][Totals::column(i)];
}
