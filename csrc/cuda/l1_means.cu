// out[pair] = the mean |real - generated|. A program has a chunk; a pair's last one adds all, in their order.
#include "map_chunk.cuh"
#include "reduce.cuh"
#include "together.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    l1_means(const __grid_constant__ Pointers<const real_t, real_n> real,
             const __grid_constant__ Pointers<const generated_t, generated_n> generated, float *partial,
             float *out, const long long *chunks, const long long *pairs, int *counters) {
  const MapChunk chunk = MapChunk::of(real, generated, chunks, pairs);
  float total = 0;
  chunk.each([&](long long, int, const float (&r)[EACH], const float (&g)[EACH]) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) total += fabsf(r[i] - g[i]);
  });
  total = block_sum<THREADS>(total);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
  const long long first = chunk.row[PAIR_FIRST], end = chunk.row[PAIR_END];
  if (!last(counters + 1 + chunk.pair, end - first)) return;
  total = 0;
  for (long long at = first + threadIdx.x; at < end; at += THREADS) total += partial[at];
  total = block_sum<THREADS>(total);
  if (threadIdx.x == 0) out[chunk.pair] = total / chunk.row[PAIR_COUNT];
}
