// Rows' gradients from the sums of their splits: of raw (with sigma held fixed), magnitude and bias. A warp
// has a row.
//
// inner = <gradient of the effective weight, raw>; of weight norm: grad = scale · (g - inner / norm² · raw).
#include "reduce.cuh"
#include "rows.cuh"
#include "turned.cuh"

struct Splits {  // of a set
  int begin, end;
};

// The sum of a row's splits, in their order.
inline float total(const float *partial, long long split_size, Splits splits, long long at) {
  float found = 0;
  for (int split = splits.begin; split < splits.end; ++split) found += partial[split * split_size + at];
  return found;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    finish(const __grid_constant__ Pointers<const raws_t, raws_n> raws,
           const __grid_constant__ Pointers<const float, partials_n> partials,
           const __grid_constant__ Pointers<const float, partial_biases_n> partial_biases,
           const __grid_constant__ Pointers<const float, scales_n> scales,
           const __grid_constant__ Pointers<const float, norms_n> norms, float *inners, grads_t *grads,
           magnitude_grads_t *magnitude_grads, bias_grads_t *bias_grads, const long long *programs,
           const long long *jobs) {
  __shared__ float shared[ROWS][AT_ONCE];
  const int lane = threadIdx.x % 32, index = programs[2 * blockIdx.x];
  const long long *job = jobs + index * FINISH_ALL_FIELDS;
  const int out = static_cast<int>(programs[2 * blockIdx.x + 1]) + threadIdx.x / 32;
  if (out >= job[FINISH_OUT]) return;
  const Turning turning = Turning::of(job[FINISH_CHANNELS], job[FINISH_TAPS], shared);
  const int outs = job[FINISH_OUT], size = turning.channels * turning.taps;
  const long long row = static_cast<long long>(out) * size, split_size = static_cast<long long>(outs) * size;
  const raws_t *raw = raws.of[index] + row;
  const float *partial = partials.of[job[FINISH_DEPTH]];
  const long long *sets = job + FINISH_SETS;
  Splits splits[MOST_SETS];
#pragma unroll
  for (int s = 0; s < MOST_SETS; ++s)
    splits[s] = {static_cast<int>(sets[s * SET_FIELDS + SET_BEGIN]),
                 static_cast<int>(sets[s * SET_FIELDS + SET_END])};

  float inner = 0, bias = 0, products[MOST_SETS] = {};
  turning.parts([&](auto... part) {
    turning.along_raw(part..., [&](float &own, int k) { own = wide(raw[k]); });
#pragma unroll
    for (int s = 0; s < MOST_SETS; ++s)
      turning.along_packed(part..., [&](float &own, int k) {
        products[s] += total(partial, split_size, splits[s], row + k) * own;
      });
  });
#pragma unroll
  for (int s = 0; s < MOST_SETS; ++s) {
    const float product = warp_sum(products[s]);
    if (lane == 0 && splits[s].begin < splits[s].end)
      inners[sets[s * SET_FIELDS + SET_INNER] + out] = product;
    inner += product;
    bias += total(partial_biases.of[job[FINISH_DEPTH]], outs, splits[s], out);
  }

  float along = 0, magnitude_grad = 0, by[MOST_SETS] = {};
  const float scale = scales.of[sets[SET_SLOT]][out];
  if (job[FINISH_KIND] == NORM_WEIGHT) {
    const float norm = norms.of[sets[SET_SLOT]][out];
    along = scale * (inner / (norm * norm));
    magnitude_grad = inner / norm;
  }
  if (lane == 0) {
    const long long at = job[FINISH_FIRST_GRAD] + out;
    bias_grads[at] = narrow<bias_grads_t>(bias);
    magnitude_grads[at] = narrow<magnitude_grads_t>(magnitude_grad);
  }
#pragma unroll
  for (int s = 0; s < MOST_SETS; ++s)
    if (splits[s].begin < splits[s].end) by[s] = scales.of[sets[s * SET_FIELDS + SET_SLOT]][out];

  grads_t *to = grads + job[FINISH_GRAD] + row;
  turning.parts([&](auto... part) {
    turning.along_packed(part..., [&](float &own, int k) {
      own = 0;
#pragma unroll
      for (int s = 0; s < MOST_SETS; ++s) own += by[s] * total(partial, split_size, splits[s], row + k);
    });
    turning.along_raw(part...,
                      [&](float &own, int k) { to[k] = narrow<grads_t>(own - along * wide(raw[k])); });
  });
}
