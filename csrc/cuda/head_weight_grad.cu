// One split's gradient of a head's filters and bias: a thread has all taps of 16 bytes of channels, over all
// rows of its tiles. Each input row is read once a tap, the second time from the first cache.
#include "chunks.cuh"
#include "rows.cuh"
#include "specialised.cuh"

constexpr int EACH = Chunk<x_t>::COUNT;
constexpr bool WHOLE = IN % EACH == 0;

extern "C" __global__ void __launch_bounds__(THREADS)
    weight_grad(const x_t *x, const grad_out_t *grad_out, float *partial, float *partial_bias,
                const long long *runs, const long long *tiles, const long long *splits) {
  const long long begin = splits[2 * blockIdx.x], end = splits[2 * blockIdx.x + 1];
  const int first = (blockIdx.z * THREADS + threadIdx.x) * EACH;
  float sums[TAPS][EACH] = {}, bias = 0;
  for (long long tile = begin; tile < end; ++tile) {
    const long long *run = runs + tiles[2 * tile] * RUN_FIELDS;
    const int in_rows = run[RUN_IN_ROWS];
    const x_t *inputs = x + run[RUN_IN_OFFSET] * IN + first;
    for (int i = 0; i < BK; ++i) {
      const Place own = place_of(run, static_cast<int>(tiles[2 * tile + 1]) + i);
      if (!own.live) break;
      const float grad = wide(grad_out[run[RUN_GRAD_OUT_OFFSET] + output_row(run, own, true)]);
      bias += grad;
      if (first >= IN) continue;
#pragma unroll
      for (int tap = 0; tap < TAPS; ++tap) {
        const int row = own.row * STRIDE - PADDING + tap;
        if (row < 0 || row >= in_rows) continue;
        float values[EACH];
        load<WHOLE>(values, inputs + (static_cast<long long>(own.sequence) * in_rows + row) * IN, IN - first);
#pragma unroll
        for (int n = 0; n < EACH; ++n) sums[tap][n] += grad * values[n];
      }
    }
  }
  if (blockIdx.z == 0 && threadIdx.x == 0) partial_bias[blockIdx.x] = bias;
#pragma unroll
  for (int tap = 0; tap < TAPS; ++tap)
    store<WHOLE>(partial + (static_cast<long long>(blockIdx.x) * TAPS + tap) * IN + first, sums[tap],
                 IN - first);
}
