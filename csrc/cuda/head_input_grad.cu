// A head's gradient of its input, with the mask below: a thread has 16 bytes of a row of one phase.
#include "chunks.cuh"
#include "phases.cuh"

constexpr int EACH = Chunk<grad_in_t>::COUNT, CHUNKS = ceil_div(IN, EACH);
constexpr bool WHOLE = IN % EACH == 0;

extern "C" __global__ void __launch_bounds__(THREADS)
    input_grad(const grad_out_t *grad_out, const weight_t *weight, const saved_t *saved,
               const __grid_constant__ Pointers<const map_grads_t, map_grads_n> map_grads,
               const float *matching, grad_in_t *grad_in, const long long *runs, const long long *tiles,
               float slope) {
  const long long *tile = tiles + 3 * blockIdx.x;
  const int index = tile[0];
  const long long *run = runs + index * RUN_FIELDS;
  const Phase phase = Phase::of(run, tile[1]);
  const int out_rows = run[RUN_OUT_ROWS];
  const weight_t *filters = weight + run[RUN_WEIGHTS] * (TAPS * IN) + phase.phase * IN;
  const map_grads_t *map = map_grads.of[index];
  grad_out += run[RUN_GRAD_OUT_OFFSET], saved += run[RUN_IN_OFFSET] * IN,
      grad_in += run[RUN_GRAD_IN_OFFSET] * IN;
  for (int i = threadIdx.x; i < BM * CHUNKS; i += THREADS) {
    const Place own = phase.place(run, static_cast<int>(tile[2]) + i / CHUNKS);
    if (!own.live) return;
    const int first = i % CHUNKS * EACH;
    float sums[EACH] = {};
    for (int back = 0; phase.phase + back * STRIDE < TAPS; ++back) {
      const int row = own.row + phase.shift - back;
      if (row < 0 || row >= out_rows) continue;
      const float grad = wide(grad_out[head_row(run, own.sequence, row)]);
      float by[EACH];
      load<WHOLE>(by, filters + back * STRIDE * IN + first, IN - first);
#pragma unroll
      for (int n = 0; n < EACH; ++n) sums[n] += grad * by[n];
    }
    const long long at = phase.input(run, own) * IN + first;
    float below[EACH], given[EACH] = {};
    load<WHOLE>(below, saved + at, IN - first);
    if (map) load<WHOLE>(given, map + at, IN - first);
#pragma unroll
    for (int n = 0; n < EACH; ++n)
      sums[n] = masked(sums[n], below[n], map, given[n], matching ? matching + index : nullptr, slope);
    store<WHOLE>(grad_in + at, sums, IN - first);
  }
}
