// Rows' gradients from the sums of their splits: of raw (with sigma held fixed), magnitude and bias. A block
// has a row.
//
// inner = <gradient of the effective weight, raw>; of weight norm: grad = scale · (g - inner / norm² · raw).
#include "reduce.cuh"
#include "rows.cuh"
#include "turned.cuh"

struct Splits {  // of a set
  int begin, end;
};

// The sums of a row's splits at some places, in the splits' order.
template <class Places>
inline auto sum(const float *partial, long long split_size, Splits splits, const Places &places) {
  constexpr int TOGETHER = Places::ELEMENTS == 1 ? 4 : 1;
  auto total = places.zeros();
#pragma unroll TOGETHER
  for (int split = splits.begin; split < splits.end; ++split) {
    const auto found = places.load(partial + split * split_size);
    places.each([&](int, int j, int i) { total.of[j][i] += found.of[j][i]; });
  }
  return total;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1024 / THREADS)
    finish(const __grid_constant__ Pointers<const raws_t, raws_n> raws,
           const __grid_constant__ Pointers<const float, partials_n> partials,
           const __grid_constant__ Pointers<const float, partial_biases_n> partial_biases,
           const __grid_constant__ Pointers<const float, scales_n> scales,
           const __grid_constant__ Pointers<const float, norms_n> norms, float *inners, grads_t *grads,
           magnitude_grads_t *magnitude_grads, bias_grads_t *bias_grads, const long long *programs,
           const long long *jobs) {
  __shared__ float own[AT_ONCE];
  const int index = programs[2 * blockIdx.x], out = programs[2 * blockIdx.x + 1];
  const long long *job = jobs + index * FINISH_ALL_FIELDS, *sets = job + FINISH_SETS;
  const int outs = job[FINISH_OUT], channels = job[FINISH_CHANNELS], taps = job[FINISH_TAPS],
            size = channels * taps;
  const long long row = static_cast<long long>(out) * size, split_size = static_cast<long long>(outs) * size;
  const raws_t *raw = raws.of[index] + row;
  const float *partial = partials.of[job[FINISH_DEPTH]] + row;
  grads_t *to = grads + job[FINISH_GRAD] + row;
  const Turning turning = Turning::of(channels, taps, by_fours(raw) && by_fours(partial) && by_fours(to));
  const float *partial_bias = partial_biases.of[job[FINISH_DEPTH]] + out;
  ask_for(raw, size);
  __shared__ Splits splits[MOST_SETS];
  __shared__ float by[MOST_SETS];
  if (threadIdx.x < MOST_SETS) {
    const long long *set = sets + threadIdx.x * SET_FIELDS;
    const Splits found = {static_cast<int>(set[SET_BEGIN]), static_cast<int>(set[SET_END])};
    splits[threadIdx.x] = found;
    by[threadIdx.x] = found.begin < found.end ? scales.of[set[SET_SLOT]][out] : 0;
  }
  __syncthreads();
  float products[MOST_SETS] = {}, bias = 0, inner = 0;
  for (int s = 0; s < MOST_SETS; ++s) {
    for (int split = splits[s].begin; split < splits[s].end; ++split)
      ask_for(partial + split * split_size, size);
    for (int split = splits[s].begin + threadIdx.x; split < splits[s].end; split += THREADS)
      bias += partial_bias[static_cast<long long>(split) * outs];
  }

  // Where raw weights are puts the sets' gradients, each by its scale.
  auto add = [&](Part part) {
    turning.along_packed(part, [&](const auto &places) {
      auto grad = places.zeros();
#pragma unroll
      for (int s = 0; s < MOST_SETS; ++s) {
        if (splits[s].begin >= splits[s].end) continue;
        const auto total = sum(partial, split_size, splits[s], places);
        places.each([&](int at, int j, int i) {
          grad.of[j][i] += by[s] * total.of[j][i];
          products[s] += total.of[j][i] * own[at];
        });
      }
      places.each([&](int at, int j, int i) { own[at] = grad.of[j][i]; });
    });
  };
  for (int number = 0; number < turning.parts; ++number) {
    turning.along_raw(turning.part(number), [&](const auto &places) {
      const auto found = places.load(raw);
      places.each([&](int at, int j, int i) { own[at] = found.of[j][i]; });
    });
    add(turning.part(number));
  }
#pragma unroll
  for (int s = 0; s < MOST_SETS; ++s) {
    const float product = block_sum<THREADS>(products[s]);
    if (threadIdx.x == 0 && splits[s].begin < splits[s].end)
      inners[sets[s * SET_FIELDS + SET_INNER] + out] = product;
    inner += product;
  }
  bias = block_sum<THREADS>(bias);

  float along = 0, magnitude_grad = 0;
  if (job[FINISH_KIND] == NORM_WEIGHT) {
    const float norm = norms.of[sets[SET_SLOT]][out];
    along = scales.of[sets[SET_SLOT]][out] * (inner / (norm * norm));
    magnitude_grad = inner / norm;
  }
  if (threadIdx.x == 0) {
    const long long at = job[FINISH_FIRST_GRAD] + out;
    bias_grads[at] = narrow<bias_grads_t>(bias);
    magnitude_grads[at] = narrow<magnitude_grads_t>(magnitude_grad);
  }
  for (int number = turning.parts - 1; number >= 0; --number) {
    const Part part = turning.part(number);
    if (number < turning.parts - 1) add(part);  // the last one is still here
    turning.along_raw(part, [&](const auto &places) {
      auto values = places.load(raw);
      places.each([&](int at, int j, int i) { values.of[j][i] = own[at] - along * values.of[j][i]; });
      places.store(to, values);
    });
  }
}
