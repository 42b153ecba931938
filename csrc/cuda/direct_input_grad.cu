// grad_in = (convᵀ(grad_out) + map_grad) · leaky'(saved): BM rows of one phase by BN channels of a group.
#include "direct_product.cuh"
#include "phases.cuh"

constexpr int IG = IN / GROUPS, OG = OUT / GROUPS;

extern "C" __global__ void __launch_bounds__(THREADS)
    input_grad(const grad_out_t *grad_out, const weight_t *weight, const saved_t *saved,
               const __grid_constant__ Pointers<const map_grads_t, map_grads_n> map_grads,
               const float *matching, grad_in_t *grad_in, const long long *runs, const long long *tiles,
               float slope) {
  __shared__ Tiles shared;
  __shared__ Place places[BM];
  const long long *tile = tiles + 3 * blockIdx.x;
  const int index = tile[0], blocks = ceil_div(IG, BN);
  const long long *run = runs + index * RUN_FIELDS;
  const Phase phase = Phase::of(run, tile[1]);
  const int group = blockIdx.y / blocks, first = blockIdx.y % blocks * BN, out_rows = run[RUN_OUT_ROWS];
  const int depth = ceil_div(TAPS - phase.phase, STRIDE) * OG;
  for (int i = threadIdx.x; i < BM; i += THREADS) places[i] = phase.place(run, static_cast<int>(tile[2]) + i);
  const weight_t *filters =
      weight + (run[RUN_WEIGHTS] * OUT + group * OG) * (TAPS * IG) + phase.phase * IG + first;
  grad_out += run[RUN_GRAD_OUT_OFFSET] * OUT + group * OG;

  float sums[OWN] = {};
  for (int k0 = 0; k0 < depth; k0 += BK) {
    __syncthreads();
    fill<true, BM>(shared.left, [&](int i, int k) -> float {
      const Place own = places[i];
      const int row = own.row + phase.shift - (k0 + k) / OG;
      if (!own.live || k0 + k >= depth || row < 0 || row >= out_rows) return 0;
      return wide(grad_out[output_row(run, {own.sequence, row, true}, HEAD) * OUT + (k0 + k) % OG]);
    });
    fill<false, BN>(shared.right, [&](int n, int k) -> float {
      if (first + n >= IG || k0 + k >= depth) return 0;
      return wide(filters[((k0 + k) % OG * TAPS + (k0 + k) / OG * STRIDE) * IG + n]);
    });
    __syncthreads();
    add_product(sums, shared);
  }
  if (depth <= 0) __syncthreads();  // a phase without taps has waited for no places yet
  const int channel = group * IG + first + own_column();
  if (first + own_column() >= IG) return;
  const map_grads_t *map = map_grads.of[index];
#pragma unroll
  for (int i = 0; i < OWN; ++i) {
    const Place own = places[own_row(i)];
    if (!own.live) continue;
    const long long at = phase.input(run, own) * IN + channel;
    const float value = masked(sums[i], wide(saved[run[RUN_IN_OFFSET] * IN + at]), map,
                               map ? wide(map[at]) : 0, matching ? matching + index : nullptr, slope);
    grad_in[run[RUN_GRAD_IN_OFFSET] * IN + at] = narrow<grad_in_t>(value);
  }
}
