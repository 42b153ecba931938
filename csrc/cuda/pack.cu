// packed = raw · scale; scale = magnitude / |raw|, 1 / sigma, or 1. A block has a row.
#include "reduce.cuh"
#include "rows.cuh"
#include "turned.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    pack(const __grid_constant__ Pointers<const raws_t, raws_n> raws,
         const __grid_constant__ Pointers<const magnitudes_t, magnitudes_n> magnitudes,
         const __grid_constant__ Pointers<const sigmas_t, sigmas_n> sigmas,
         const __grid_constant__ Pointers<const biases_t, biases_n> biases, packed_t *packed, float *scales,
         float *norms, float *packed_biases, const long long *programs, const long long *jobs) {
  __shared__ float own[AT_ONCE];
  const int index = programs[2 * blockIdx.x], out = programs[2 * blockIdx.x + 1];
  const long long *job = jobs + index * PACK_FIELDS;
  const int channels = job[PACK_CHANNELS], taps = job[PACK_TAPS];
  const long long row = static_cast<long long>(out) * (channels * taps);
  const raws_t *raw = raws.of[index] + row;
  ask_for(raw, channels * taps);
  packed_t *to = packed + job[PACK_PACKED] + row;
  const Turning turning = Turning::of(channels, taps, by_fours(raw) && by_fours(to));
  float squares = 0;
  auto read = [&](Part part) {
    turning.along_raw(part, [&](const auto &places) {
      const auto values = places.load(raw);
      places.each([&](int at, int j, int i) {
        squares += values.of[j][i] * values.of[j][i];
        own[at] = values.of[j][i];
      });
    });
  };
  for (int number = 0; number < turning.parts; ++number) read(turning.part(number));
  float scale = 1, norm = 1;
  if (job[PACK_KIND] == NORM_WEIGHT) {
    norm = sqrtf(block_sum<THREADS>(squares));
    scale = wide(magnitudes.of[index][out]) / norm;
  } else if (job[PACK_KIND] == NORM_SPECTRAL) {
    scale = 1 / wide(sigmas.of[index][0]);
  }
  if (threadIdx.x == 0) {
    const long long at = job[PACK_FIRST] + out;
    scales[at] = scale;
    norms[at] = norm;
    packed_biases[at] = wide(biases.of[index][out]);
  }
  const bool rounded = TF32 && !job[PACK_EXACT];
  for (int number = turning.parts - 1; number >= 0; --number) {
    const Part part = turning.part(number);
    if (number < turning.parts - 1) read(part);  // the last one is still here
    turning.along_packed(part, [&](const auto &places) {
      auto values = places.zeros();
      places.each([&](int at, int j, int i) {
        values.of[j][i] = rounded ? to_tf32(own[at] * scale) : own[at] * scale;
      });
      places.store(to, values);
    });
  }
}
