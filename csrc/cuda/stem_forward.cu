// A stem: out = leaky(conv(fold(x)) + bias). A thread has 8 channels of some rows: 16 bytes at a time in half
// precision.
#include "chunks.cuh"
#include "rows.cuh"
#include "specialised.cuh"

constexpr int EACH = 8, CHUNKS = ceil_div(OUT, EACH), SLOTS = THREADS / CHUNKS, AT_ONCE = 4;
constexpr bool WHOLE = OUT % EACH == 0;
static_assert(CHUNKS <= THREADS && BN == OUT);

extern "C" __global__ void __launch_bounds__(THREADS)
    forward(const x_t *x, const weight_t *weight, const float *bias, out_t *out, const long long *runs,
            const long long *tiles, float slope) {
  __shared__ __align__(16) float filters[TAPS + 1][CHUNKS * EACH];  // the last ones: biases
  const long long *run = runs + tiles[2 * blockIdx.x] * RUN_FIELDS;
  const int begin = tiles[2 * blockIdx.x + 1];
  for (int i = threadIdx.x; i < CHUNKS * EACH * TAPS; i += THREADS)
    filters[i % TAPS][i / TAPS] = i < OUT * TAPS ? wide(weight[run[RUN_WEIGHTS] * (OUT * TAPS) + i]) : 0;
  for (int i = threadIdx.x; i < CHUNKS * EACH; i += THREADS)
    filters[TAPS][i] = i < OUT ? bias[run[RUN_WEIGHTS] * OUT + i] : 0;
  __syncthreads();
  const int first = threadIdx.x % CHUNKS * EACH, slot = threadIdx.x / CHUNKS;
  if (slot >= SLOTS) return;
  x += run[RUN_IN_OFFSET];
  for (int at = slot; at < BM; at += SLOTS * AT_ONCE) {
    Place places[AT_ONCE];
    float sums[AT_ONCE][EACH];
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      places[i] = place_of(run, begin + at + i * SLOTS);
      places[i].live = places[i].live && at + i * SLOTS < BM;
#pragma unroll
      for (int n = 0; n < EACH; ++n) sums[i][n] = filters[TAPS][first + n];
    }
#pragma unroll
    for (int tap = 0; tap < TAPS; ++tap) {
      float own[EACH];
      load_whole(own, filters[tap] + first);
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) {
        const long long place = folded(run, places[i].sequence, places[i].row * STRIDE - PADDING + tap);
        const float value = places[i].live && place >= 0 ? wide(x[place]) : 0;
#pragma unroll
        for (int n = 0; n < EACH; ++n) sums[i][n] += value * own[n];
      }
    }
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      if (!places[i].live) continue;
#pragma unroll
      for (int n = 0; n < EACH; ++n) sums[i][n] = sums[i][n] > 0 ? sums[i][n] : sums[i][n] * slope;
      out_t *to = out + (run[RUN_OUT_OFFSET] + output_row(run, places[i], false)) * OUT + first;
      store<WHOLE>(to, sums[i], OUT - first);
    }
  }
}
