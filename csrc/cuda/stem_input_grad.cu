// grad_waves of BM places of one waveform: the sum over the runs first … end - 1, which all read it. Some
// lanes have a place together, side by side in the rows of the gradient.
#include "chunks.cuh"
#include "rows.cuh"
#include "specialised.cuh"

constexpr int EACH = Chunk<grad_out_t>::COUNT, CHUNKS = ceil_div(OUT, EACH);
constexpr int LANES = CHUNKS >= 32   ? 32
                      : CHUNKS >= 16 ? 16
                      : CHUNKS >= 8  ? 8
                      : CHUNKS >= 4  ? 4
                      : CHUNKS >= 2  ? 2
                                     : 1;
constexpr int PLACES = THREADS / LANES;  // at a time
constexpr bool WHOLE = OUT % EACH == 0;
static_assert(BM % PLACES == 0);

// Whether filters go into shared memory, turned; of a long stem they are read where they are.
constexpr bool FIT = (TAPS * OUT + BM) * sizeof(float) <= 48 * 1024;

// This lane's part of the gradient of the fold's position `at`, of waveform `sample`. filter(tap, out
// channel).
template <class Filter>
inline float passed_back(const grad_out_t *grad_out, Filter filter, const long long *run, int sample,
                         int at) {
  const int period = run[RUN_PERIOD], out_rows = run[RUN_OUT_ROWS], place = at / period;
  const grad_out_t *rows =
      grad_out + (static_cast<long long>(sample) * period + at % period) * out_rows * OUT;
  float total = 0;
  // Taps that reach an output row are a stride apart, and their rows neighbours.
  for (int tap = (place + PADDING) % STRIDE; tap < TAPS; tap += STRIDE) {
    const int row = (place + PADDING - tap) / STRIDE;
    if (place + PADDING < tap || row >= out_rows) continue;
#pragma unroll
    for (int first = threadIdx.x % LANES * EACH; first < OUT; first += LANES * EACH) {
      float grads[EACH];
      load<WHOLE>(grads, rows + static_cast<long long>(row) * OUT + first, OUT - first);
#pragma unroll
      for (int i = 0; i < EACH; ++i)
        if (WHOLE || first + i < OUT) total += grads[i] * filter(tap, first + i);
    }
  }
  return total;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    stem_input_grad(const grad_out_t *grad_out, const weight_t *weight, grad_waves_t *grad_waves,
                    const long long *runs, const long long *tiles) {
  __shared__ float filters[FIT ? TAPS * OUT : 1], totals[BM];
  const long long *tile = tiles + 5 * blockIdx.x;
  const int begin = tile[0], end = tile[1], sample = tile[2], first = tile[3];
  const int length = runs[begin * RUN_FIELDS + RUN_IN_ROWS];
  for (int index = begin; index < end; ++index) {
    const long long *run = runs + index * RUN_FIELDS;
    const int period = run[RUN_PERIOD], folded_length = ceil_div(length, period) * period;
    const grad_out_t *grads = grad_out + run[RUN_GRAD_OUT_OFFSET] * OUT;
    const weight_t *own = weight + run[RUN_WEIGHTS] * (OUT * TAPS);
    if (FIT) {
      __syncthreads();
      for (int i = threadIdx.x; i < TAPS * OUT; i += THREADS)
        filters[i % TAPS * OUT + i / TAPS] = wide(own[i]);
      __syncthreads();
    }
    const auto filter = [&](int tap, int channel) {
      return FIT ? filters[tap * OUT + channel] : wide(own[channel * TAPS + tap]);
    };
#pragma unroll 1
    for (int i = 0; i < BM / PLACES; ++i) {
      const int place = i * PLACES + threadIdx.x / LANES, at = first + place,
                mirrored = 2 * (length - 1) - at;
      float total = at < length ? passed_back(grads, filter, run, sample, at) : 0;
      // The reflect pad mirrors the samples before the last.
      if (at < length && mirrored >= length && mirrored < folded_length)
        total += passed_back(grads, filter, run, sample, mirrored);
      for (int by = LANES / 2; by; by /= 2) total += __shfl_xor_sync(0xFFFFFFFF, total, by);
      if (threadIdx.x % LANES == 0) totals[place] = index == begin ? total : totals[place] + total;
    }
  }
  __syncthreads();
  for (int place = threadIdx.x; place < min(BM, length - first); place += THREADS)
    grad_waves[tile[4] + first + place] = narrow<grad_waves_t>(totals[place]);
}
