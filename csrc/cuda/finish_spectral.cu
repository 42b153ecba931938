// grads -= the part of the gradient through sigma = uᵀ W v: for each set, sum(inner) / sigma² · u vᵀ. A block
// has a row.
#include "batches.cuh"
#include "reduce.cuh"
#include "rows.cuh"

static_assert(ROWS == 1);

extern "C" __global__ void __launch_bounds__(THREADS)
    finish_spectral(const __grid_constant__ Pointers<const us_t, us_n> us,
                    const __grid_constant__ Pointers<const vs_t, vs_n> vs,
                    const __grid_constant__ Pointers<const sigmas_t, sigmas_n> sigmas, const float *inners,
                    grads_t *grads, const long long *programs, const long long *jobs) {
  const long long *job = jobs + programs[2 * blockIdx.x] * FINISH_ALL_FIELDS;
  const int outs = job[FINISH_OUT], out = programs[2 * blockIdx.x + 1];
  const int size = job[FINISH_CHANNELS] * job[FINISH_TAPS];
  grads_t *to = grads + job[FINISH_GRAD] + static_cast<long long>(out) * size;
  ask_for(to, size);
  float by[MOST_SETS] = {};
  const vs_t *own_vs[MOST_SETS];
  bool whole = size % 4 == 0 && by_fours(to);
#pragma unroll
  for (int s = 0; s < MOST_SETS; ++s) {
    const long long *set = job + FINISH_SETS + s * SET_FIELDS;
    own_vs[s] = set[SET_BEGIN] < set[SET_END] ? vs.of[set[SET_SLOT]] : nullptr;
    if (!own_vs[s]) continue;
    whole = whole && by_fours(own_vs[s]);
    float total = 0;
    for (int o = threadIdx.x; o < outs; o += THREADS) total += inners[set[SET_INNER] + o];
    const float sigma = wide(sigmas.of[set[SET_SLOT]][0]);
    by[s] = wide(us.of[set[SET_SLOT]][out]) * (block_sum<THREADS>(total) / (sigma * sigma));
  }
  const auto subtract = [&](auto batch) {
    using Own = decltype(batch);
    float found[Own::COUNT][Own::ELEMENTS];
#pragma unroll
    for (int j = 0; j < Own::COUNT; ++j) load_item(found[j], to + batch.item(j) * Own::ELEMENTS);
#pragma unroll
    for (int s = 0; s < MOST_SETS; ++s) {
      if (!own_vs[s]) continue;
#pragma unroll
      for (int j = 0; j < Own::COUNT; ++j) {
        float v[Own::ELEMENTS];
        load_item(v, own_vs[s] + batch.item(j) * Own::ELEMENTS);
#pragma unroll
        for (int i = 0; i < Own::ELEMENTS; ++i) found[j][i] -= by[s] * v[i];
      }
    }
#pragma unroll
    for (int j = 0; j < Own::COUNT; ++j)
      if (batch.live(j)) store_item(to + batch.item(j) * Own::ELEMENTS, found[j]);
  };
  whole ? batches<4>(size / 4, subtract) : batches<1>(size, subtract);
}
