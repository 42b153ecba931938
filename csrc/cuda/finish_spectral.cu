// grads -= the part of the gradient through sigma = uᵀ W v: for each set, sum(inner) / sigma² · u vᵀ. A warp
// has a row.
#include "reduce.cuh"
#include "rows.cuh"
#include "specialised.cuh"

static_assert(THREADS == 32 * ROWS);

extern "C" __global__ void __launch_bounds__(THREADS)
    finish_spectral(const __grid_constant__ Pointers<const us_t, us_n> us,
                    const __grid_constant__ Pointers<const vs_t, vs_n> vs,
                    const __grid_constant__ Pointers<const sigmas_t, sigmas_n> sigmas, const float *inners,
                    grads_t *grads, const long long *programs, const long long *jobs) {
  const long long *job = jobs + programs[2 * blockIdx.x] * FINISH_ALL_FIELDS;
  const int lane = threadIdx.x % 32, outs = job[FINISH_OUT];
  const int out = static_cast<int>(programs[2 * blockIdx.x + 1]) + threadIdx.x / 32;
  if (out >= outs) return;
  const int size = job[FINISH_CHANNELS] * job[FINISH_TAPS];
  grads_t *to = grads + job[FINISH_GRAD] + static_cast<long long>(out) * size;
  float totals[MOST_SETS] = {};
#pragma unroll
  for (int s = 0; s < MOST_SETS; ++s) {
    const long long *set = job + FINISH_SETS + s * SET_FIELDS;
    const int count = set[SET_BEGIN] < set[SET_END] ? outs : 0;
    for (int o = lane; o < count; o += 32) totals[s] += inners[set[SET_INNER] + o];
  }
#pragma unroll
  for (int s = 0; s < MOST_SETS; ++s) totals[s] = warp_sum(totals[s]);
#pragma unroll
  for (int s = 0; s < MOST_SETS; ++s) {
    const long long *set = job + FINISH_SETS + s * SET_FIELDS;
    if (set[SET_BEGIN] >= set[SET_END]) continue;
    const float sigma = wide(sigmas.of[set[SET_SLOT]][0]);
    const float u = wide(us.of[set[SET_SLOT]][out]) * (totals[s] / (sigma * sigma));
    const vs_t *v = vs.of[set[SET_SLOT]];
    for (int k = lane; k < size; k += 32) to[k] = narrow<grads_t>(wide(to[k]) - u * wide(v[k]));
  }
}
