// out = leaky(conv(x) + bias): BM rows by BN channels of a group, of any geometry.
#include "direct_product.cuh"
#include "rows.cuh"

constexpr int IG = IN / GROUPS, OG = OUT / GROUPS, K = TAPS * IG;

extern "C" __global__ void __launch_bounds__(THREADS)
    forward(const x_t *x, const weight_t *weight, const float *bias, out_t *out, const long long *runs,
            const long long *tiles, float slope) {
  __shared__ Tiles shared;
  __shared__ Place places[BM];
  const long long *run = runs + tiles[2 * blockIdx.x] * RUN_FIELDS;
  const int begin = tiles[2 * blockIdx.x + 1], blocks = ceil_div(OG, BN);
  const int group = blockIdx.y / blocks, first = blockIdx.y % blocks * BN;
  const weight_t *filters = weight + (run[RUN_WEIGHTS] * OUT + group * OG + first) * K;
  x += run[RUN_IN_OFFSET] * IN;
  for (int i = threadIdx.x; i < BM; i += THREADS) places[i] = place_of(run, begin + i);
  const int in_rows = run[RUN_IN_ROWS];

  const auto input = [&](int i, int k) -> float {
    const Place own = places[i];
    if (!own.live || k >= K) return 0;
    const int at = own.row * STRIDE - PADDING + k / IG;
    if (STEM) {
      const long long place = folded(run, own.sequence, at);
      return place < 0 ? 0 : wide(x[place]);
    }
    if (at < 0 || at >= in_rows) return 0;
    return wide(x[(static_cast<long long>(own.sequence) * in_rows + at) * IN + group * IG + k % IG]);
  };

  float sums[OWN] = {};
  for (int k0 = 0; k0 < K; k0 += BK) {
    __syncthreads();
    fill<true, BM>(shared.left, [&](int i, int k) { return input(i, k0 + k); });
    fill<true, BN>(shared.right, [&](int n, int k) {
      return first + n < OG && k0 + k < K ? wide(filters[static_cast<long long>(n) * K + k0 + k]) : 0.0f;
    });
    __syncthreads();
    add_product(sums, shared);
  }
  const int channel = group * OG + first + own_column();
  if (first + own_column() >= OG) return;
  const float added = bias[run[RUN_WEIGHTS] * OUT + channel];
#pragma unroll
  for (int i = 0; i < OWN; ++i) {
    const Place own = places[own_row(i)];
    if (!own.live) continue;
    const float value = sums[i] + added;
    out[(run[RUN_OUT_OFFSET] + output_row(run, own, HEAD)) * OUT + channel] =
        narrow<out_t>(value > 0 ? value : value * slope);
  }
}
