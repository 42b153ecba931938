// One split's gradient of a stem's filters and biases: a thread sums all taps of 4 channels over some rows of
// each tile, so that the gradient is read once.
#include "chunks.cuh"
#include "rows.cuh"
#include "specialised.cuh"

constexpr int EACH = 4, CHUNKS = ceil_div(OUT, EACH), SLOTS = THREADS / CHUNKS;
constexpr bool WHOLE = OUT % EACH == 0;
static_assert(CHUNKS <= THREADS);

extern "C" __global__ void __launch_bounds__(THREADS)
    weight_grad(const x_t *x, const grad_out_t *grad_out, float *partial, float *partial_bias,
                const long long *runs, const long long *tiles, const long long *splits) {
  __shared__ float parts[TAPS + 1][THREADS];
  const int chunk = threadIdx.x % CHUNKS, first = chunk * EACH, slot = threadIdx.x / CHUNKS;
  float sums[EACH][TAPS + 1] = {};
  for (long long tile = splits[2 * blockIdx.x]; tile < splits[2 * blockIdx.x + 1] && slot < SLOTS; ++tile) {
    const long long *run = runs + tiles[2 * tile] * RUN_FIELDS;
    const int begin = tiles[2 * tile + 1];
    const x_t *inputs = x + run[RUN_IN_OFFSET];
    for (int at = slot; at < BK; at += SLOTS) {
      const Place own = place_of(run, begin + at);
      if (!own.live) break;
      float grads[EACH];
      load<WHOLE>(grads, grad_out + (run[RUN_GRAD_OUT_OFFSET] + output_row(run, own, false)) * OUT + first,
                  OUT - first);
#pragma unroll
      for (int tap = 0; tap < TAPS; ++tap) {
        const long long place = folded(run, own.sequence, own.row * STRIDE - PADDING + tap);
        const float value = place < 0 ? 0 : wide(inputs[place]);
#pragma unroll
        for (int n = 0; n < EACH; ++n) sums[n][tap] += value * grads[n];
      }
#pragma unroll
      for (int n = 0; n < EACH; ++n) sums[n][TAPS] += grads[n];
    }
  }
#pragma unroll
  for (int n = 0; n < EACH; ++n) {
    __syncthreads();
#pragma unroll
    for (int tap = 0; tap <= TAPS; ++tap) parts[tap][threadIdx.x] = sums[n][tap];
    __syncthreads();
    for (int i = threadIdx.x; i < (TAPS + 1) * CHUNKS; i += THREADS) {
      const int tap = i / CHUNKS, own = i % CHUNKS, channel = own * EACH + n;
      if (channel >= OUT) continue;
      float total = 0;
      for (int s = 0; s < SLOTS; ++s) total += parts[tap][s * CHUNKS + own];
      const long long row = static_cast<long long>(blockIdx.x) * OUT + channel;
      if (tap == TAPS) partial_bias[row] = total;
      if (tap < TAPS) partial[row * TAPS + tap] = total;
    }
  }
}
