// One split's gradient of the effective weights: BM out channels of a group by BN positions, over tiles of BK
// rows.
#include "direct_product.cuh"
#include "rows.cuh"

constexpr int IG = IN / GROUPS, OG = OUT / GROUPS, K = TAPS * IG;

extern "C" __global__ void __launch_bounds__(THREADS)
    weight_grad(const x_t *x, const grad_out_t *grad_out, float *partial, float *partial_bias,
                const long long *runs, const long long *tiles, const long long *splits) {
  __shared__ Tiles shared;
  __shared__ Place places[BK];
  const int blocks = ceil_div(OG, BM), group = blockIdx.y / blocks, first = blockIdx.y % blocks * BM;
  const int k0 = blockIdx.z * BN;
  const long long begin = splits[2 * blockIdx.x], end = splits[2 * blockIdx.x + 1];
  float sums[OWN] = {}, bias = 0;
  for (long long tile = begin; tile < end; ++tile) {
    const long long *run = runs + tiles[2 * tile] * RUN_FIELDS;
    const int in_rows = run[RUN_IN_ROWS];
    const x_t *inputs = x + run[RUN_IN_OFFSET] * IN;
    const grad_out_t *grads = grad_out + run[RUN_GRAD_OUT_OFFSET] * OUT + group * OG + first;
    __syncthreads();
    for (int i = threadIdx.x; i < BK; i += THREADS)
      places[i] = place_of(run, static_cast<int>(tiles[2 * tile + 1]) + i);
    __syncthreads();
    fill<false, BM>(shared.left, [&](int o, int i) -> float {
      if (first + o >= OG || !places[i].live) return 0;
      return wide(grads[output_row(run, places[i], HEAD) * OUT + o]);
    });
    fill<false, BN>(shared.right, [&](int n, int i) -> float {
      const int k = k0 + n, at = places[i].row * STRIDE - PADDING + k / IG;
      if (k >= K || !places[i].live) return 0;
      if (STEM) {
        const long long place = folded(run, places[i].sequence, at);
        return place < 0 ? 0 : wide(inputs[place]);
      }
      if (at < 0 || at >= in_rows) return 0;
      return wide(
          inputs[(static_cast<long long>(places[i].sequence) * in_rows + at) * IN + group * IG + k % IG]);
    });
    __syncthreads();
    add_product(sums, shared);
    if (blockIdx.z == 0 && threadIdx.x < BM) {
      float part = 0;
      for (int i = 0; i < BK; ++i) part += shared.left[i][threadIdx.x];
      bias += part;
    }
  }
  const long long channels = static_cast<long long>(blockIdx.x) * OUT + group * OG + first;
  if (blockIdx.z == 0 && threadIdx.x < BM && first + threadIdx.x < OG)
    partial_bias[channels + threadIdx.x] = bias;
#pragma unroll
  for (int i = 0; i < OWN; ++i)
    if (first + own_row(i) < OG && k0 + own_column() < K)
      partial[(channels + own_row(i)) * K + k0 + own_column()] = sums[i];
}
