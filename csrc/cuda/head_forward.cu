// A head, one output channel: a warp has a row's product, 16 bytes of an input row at a time.
#include "chunks.cuh"
#include "reduce.cuh"
#include "rows.cuh"
#include "specialised.cuh"

constexpr int EACH = Chunk<x_t>::COUNT;
constexpr bool WHOLE = IN % EACH == 0;

// Two programs a multiprocessor: of the registers that ptxas chose itself 8 bytes were spilled on 10.0.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    forward(const x_t *x, const weight_t *weight, const float *bias, out_t *out, const long long *runs,
            const long long *tiles, float slope) {
  const long long *run = runs + tiles[2 * blockIdx.x] * RUN_FIELDS;
  const int in_rows = run[RUN_IN_ROWS], lane = threadIdx.x % 32;
  const weight_t *filters = weight + run[RUN_WEIGHTS] * (TAPS * IN);
  for (int at = threadIdx.x / 32; at < BM; at += THREADS / 32) {
    const Place own = place_of(run, static_cast<int>(tiles[2 * blockIdx.x + 1]) + at);
    if (!own.live) return;
    float sum = 0;
#pragma unroll
    for (int tap = 0; tap < TAPS; ++tap) {
      const int row = own.row * STRIDE - PADDING + tap;
      if (row < 0 || row >= in_rows) continue;
      const x_t *from = x + (run[RUN_IN_OFFSET] + static_cast<long long>(own.sequence) * in_rows + row) * IN;
#pragma unroll 4
      for (int first = lane * EACH; first < IN; first += 32 * EACH) {
        float values[EACH], by[EACH];
        load<WHOLE>(values, from + first, IN - first);
        load<WHOLE>(by, filters + tap * IN + first, IN - first);
#pragma unroll
        for (int n = 0; n < EACH; ++n) sum += values[n] * by[n];
      }
    }
    sum = warp_sum(sum) + bias[run[RUN_WEIGHTS]];
    if (lane == 0)
      out[run[RUN_OUT_OFFSET] + output_row(run, own, true)] = narrow<out_t>(sum > 0 ? sum : sum * slope);
  }
}
