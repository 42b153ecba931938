// grad_waves of BM places of one waveform, a thread a place: the sum over the runs first … end - 1, which all
// read it.
#include "chunks.cuh"
#include "rows.cuh"
#include "specialised.cuh"

constexpr int EACH = Chunk<grad_out_t>::COUNT;
constexpr bool WHOLE = OUT % EACH == 0;
static_assert(THREADS == BM);

// The gradient of the fold's position `at`, of waveform `sample`. `filters`: [tap][out channel].
inline float passed_back(const grad_out_t *grad_out, const float *filters, const long long *run, int sample,
                         int at) {
  const int period = run[RUN_PERIOD], out_rows = run[RUN_OUT_ROWS], place = at / period;
  const grad_out_t *rows =
      grad_out + (static_cast<long long>(sample) * period + at % period) * out_rows * OUT;
  float total = 0;
  // Taps that reach an output row are a stride apart, and their rows neighbours.
  for (int tap = (place + PADDING) % STRIDE; tap < TAPS; tap += STRIDE) {
    const int row = (place + PADDING - tap) / STRIDE;
    if (place + PADDING < tap || row >= out_rows) continue;
#pragma unroll 4
    for (int first = 0; first < OUT; first += EACH) {
      float grads[EACH];
      load<WHOLE>(grads, rows + static_cast<long long>(row) * OUT + first, OUT - first);
#pragma unroll
      for (int i = 0; i < EACH; ++i)
        if (WHOLE || first + i < OUT) total += grads[i] * filters[tap * OUT + first + i];
    }
  }
  return total;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    stem_input_grad(const grad_out_t *grad_out, const weight_t *weight, grad_waves_t *grad_waves,
                    const long long *runs, const long long *tiles) {
  __shared__ float filters[TAPS * OUT];
  const long long *tile = tiles + 5 * blockIdx.x;
  const int begin = tile[0], end = tile[1], sample = tile[2], at = static_cast<int>(tile[3]) + threadIdx.x;
  const int length = runs[begin * RUN_FIELDS + RUN_IN_ROWS], mirrored = 2 * (length - 1) - at;
  float total = 0;
  for (int index = begin; index < end; ++index) {
    const long long *run = runs + index * RUN_FIELDS;
    __syncthreads();
    for (int i = threadIdx.x; i < TAPS * OUT; i += THREADS)
      filters[i] = wide(weight[run[RUN_WEIGHTS] * (OUT * TAPS) + i % OUT * TAPS + i / OUT]);
    __syncthreads();
    if (at >= length) continue;
    const grad_out_t *grads = grad_out + run[RUN_GRAD_OUT_OFFSET] * OUT;
    total += passed_back(grads, filters, run, sample, at);
    // The reflect pad mirrors the samples before the last.
    const int period = run[RUN_PERIOD];
    if (mirrored >= length && mirrored < ceil_div(length, period) * period)
      total += passed_back(grads, filters, run, sample, mirrored);
  }
  if (at < length) grad_waves[tile[4] + at] = narrow<grad_waves_t>(total);
}
