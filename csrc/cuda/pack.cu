// packed = raw · scale; scale = magnitude / |raw|, 1 / sigma, or 1. A warp has a row.
#include "reduce.cuh"
#include "rows.cuh"
#include "turned.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    pack(const __grid_constant__ Pointers<const raws_t, raws_n> raws,
         const __grid_constant__ Pointers<const magnitudes_t, magnitudes_n> magnitudes,
         const __grid_constant__ Pointers<const sigmas_t, sigmas_n> sigmas,
         const __grid_constant__ Pointers<const biases_t, biases_n> biases, packed_t *packed, float *scales,
         float *norms, float *packed_biases, const long long *programs, const long long *jobs) {
  __shared__ float shared[ROWS][AT_ONCE];
  const int lane = threadIdx.x % 32, index = programs[2 * blockIdx.x];
  const long long *job = jobs + index * PACK_FIELDS;
  const int out = static_cast<int>(programs[2 * blockIdx.x + 1]) + threadIdx.x / 32;
  if (out >= job[PACK_OUT]) return;
  const Turning turning = Turning::of(job[PACK_CHANNELS], job[PACK_TAPS], shared);
  const int size = turning.channels * turning.taps;
  const long long at = job[PACK_FIRST] + out;
  const raws_t *raw = raws.of[index] + static_cast<long long>(out) * size;
  float scale = 1, norm = 1;
  if (job[PACK_KIND] == NORM_WEIGHT) {
    float squares = 0;
    for (int k = lane; k < size; k += 32) squares += wide(raw[k]) * wide(raw[k]);
    norm = sqrtf(warp_sum(squares));
    scale = wide(magnitudes.of[index][out]) / norm;
  } else if (job[PACK_KIND] == NORM_SPECTRAL) {
    scale = 1 / wide(sigmas.of[index][0]);
  }
  if (lane == 0) {
    scales[at] = scale;
    norms[at] = norm;
    packed_biases[at] = wide(biases.of[index][out]);
  }
  packed_t *to = packed + job[PACK_PACKED] + static_cast<long long>(out) * size;
  turning.parts([&](auto... part) {
    turning.along_raw(part..., [&](float &own, int k) { own = wide(raw[k]) * scale; });
    turning.along_packed(part..., [&](float &own, int k) {
      to[k] = narrow<packed_t>(TF32 && !job[PACK_EXACT] ? to_tf32(own) : own);
    });
  });
}
