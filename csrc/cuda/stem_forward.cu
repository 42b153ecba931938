// A stem: out = leaky(conv(fold(x)) + bias), BM rows by BN channels a program. In half precision matrix units
// multiply, samples rounded as PyTorch's are; else fused multiply-adds.
#include "chunks.cuh"
#include "matrix_units.cuh"
#include "stem.cuh"

constexpr int DEPTH = ceil_div(TAPS, 8) * 8;  // taps, and what masks hide behind them
static_assert(TAPS <= 16 && BN % 32 == 0);

using Samples = Window<out_t, BM, DEPTH>;

inline float leaky(float value, float slope) { return value > 0 ? value : value * slope; }

// A channel that there is: columns behind the last have its weights, and are not stored.
inline int existing(int channel) { return OUT % BN == 0 ? channel : min(channel, OUT - 1); }

// A warp has 32 channels, a thread of it eight side by side, since column n of the jth matrix of weights is
// channel 8 · (n / 2) + 2 · j + n % 2.
template <class T>
struct MatrixUnits {
  static constexpr int ALONG = BN / 32, DOWN = THREADS / 32 / ALONG, HALVES = DEPTH / 8, EACH = 8;

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4, tap = lane % 4 * 2;
  const int panel = blockIdx.y * BN + warp % ALONG * 32, first = panel + lane % 4 * EACH;
  unsigned filters[4][HALVES], there[HALVES];
  float biases[EACH];

  inline MatrixUnits(const T *weight, const float *bias) {
#pragma unroll
    for (int half = 0; half < HALVES; ++half) {
      const int own = half * 8 + tap, last = TAPS - 1;
      there[half] = (own <= last ? 0xFFFF : 0) | (own < last ? 0xFFFF0000 : 0);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const T *from = weight + existing(panel + row / 2 * EACH + 2 * j + row % 2) * TAPS;
        filters[j][half] = word(from[min(own, last)], from[min(own + 1, last)]) & there[half];
      }
    }
#pragma unroll
    for (int i = 0; i < EACH; ++i) biases[i] = bias[existing(first + i)];
  }

  inline void multiplied(const Samples &samples, T *out, int rows, float slope) const {
#pragma unroll 2
    for (int step = 0; step < BM; step += DOWN * 16) {
      const int above = step + warp / ALONG * 16;
      unsigned taps[2 * HALVES];
#pragma unroll
      for (int i = 0; i < 2 * HALVES; ++i) {
        const T *from = samples.slots + samples.places[above + row + i % 2 * 8] + i / 2 * 8 + tap;
        taps[i] = word(from[0], from[1]) & there[i / 2];
      }
      float sums[2][EACH];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float own[4] = {biases[2 * j], biases[2 * j + 1], biases[2 * j], biases[2 * j + 1]};
        if constexpr (HALVES == 2)
          multiply<T>(own, taps, filters[j]);
        else
          multiply_chunk<T>(own, taps[0], taps[1], filters[j][0]);
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[i / 2][2 * j + i % 2] = leaky(own[i], slope);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int own = above + row + 8 * i;
        if (own < rows)
          store<OUT % EACH == 0>(out + static_cast<long long>(own) * OUT + first, sums[i], OUT - first);
      }
    }
  }
};

// A thread has two times four channels, half of the columns apart, of eight rows at a time.
template <class T>
struct MultiplyAdds {
  static constexpr int LANES = BN / 8, SLOTS = THREADS / LANES, AT_ONCE = 8, HALF = BN / 2;
  static_assert(BM % (SLOTS * AT_ONCE) == 0);

  T (*filters)[BN];  // of each tap, and biases

  inline MultiplyAdds(const T *weight, const float *bias) {
    __shared__ __align__(16) T own[TAPS + 1][BN];
    filters = own;
    const int first = blockIdx.y * BN;
    for (int i = threadIdx.x; i < BN * TAPS; i += THREADS)
      own[i % TAPS][i / TAPS] = weight[existing(first + i / TAPS) * TAPS + i % TAPS];
    for (int i = threadIdx.x; i < BN; i += THREADS) own[TAPS][i] = bias[existing(first + i)];
  }

  inline void multiplied(const Samples &samples, T *out, int rows, float slope) const {
    const int own = threadIdx.x % LANES * 4;
#pragma unroll 1
    for (int step = 0; step < BM; step += SLOTS * AT_ONCE) {
      const int above = step + threadIdx.x / LANES;
      float sums[AT_ONCE][2][4];
      int places[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) {
        places[i] = samples.places[above + i * SLOTS];
        load_whole(sums[i][0], filters[TAPS] + own);
        load_whole(sums[i][1], filters[TAPS] + own + HALF);
      }
#pragma unroll
      for (int tap = 0; tap < TAPS; ++tap) {
        float by[2][4];
        load_whole(by[0], filters[tap] + own);
        load_whole(by[1], filters[tap] + own + HALF);
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
          const T value = samples.slots[places[i] + tap];
#pragma unroll
          for (int n = 0; n < 8; ++n) sums[i][n / 4][n % 4] += value * by[n / 4][n % 4];
        }
      }
#pragma unroll
      for (int i = 0; i < 2 * AT_ONCE; ++i) {
        const int row = above + i / 2 * SLOTS, first = blockIdx.y * BN + i % 2 * HALF + own;
        float (&found)[4] = sums[i / 2][i % 2];
#pragma unroll
        for (int n = 0; n < 4; ++n) found[n] = leaky(found[n], slope);
        if (row < rows)
          store<OUT % 4 == 0>(out + static_cast<long long>(row) * OUT + first, found, OUT - first);
      }
    }
  }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    forward(const x_t *x, const weight_t *weight, const float *bias, out_t *out, const long long *runs,
            const long long *tiles, float slope) {
  __shared__ Samples samples;
  const long long *run = runs + tiles[2 * blockIdx.x] * RUN_FIELDS;
  const int begin = tiles[2 * blockIdx.x + 1], rows = rows_of(run) - begin;
  out += (run[RUN_OUT_OFFSET] + begin) * OUT;
  using Product = Choose<sizeof(out_t) == 4, MultiplyAdds<out_t>, MatrixUnits<out_t>>::Type;
  const Product product(weight + run[RUN_WEIGHTS] * (OUT * TAPS), bias + run[RUN_WEIGHTS] * OUT);
  samples.fill(x, run, begin);
  __syncthreads();
  product.multiplied(samples, out, rows, slope);
}
