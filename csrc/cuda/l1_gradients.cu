// Of |generated - real|: its sign · grad / elements; 0 where the two are equal, NaN where one is.
#include "map_chunk.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    l1_gradients(const __grid_constant__ Pointers<const real_t, real_n> real,
                 const __grid_constant__ Pointers<const generated_t, generated_n> generated,
                 const grad_means_t *grad_means, grads_t *grads, const long long *places,
                 const long long *chunks, const long long *pairs) {
  const MapChunk chunk = MapChunk::of(real, generated, chunks, pairs);
  const float by = wide(grad_means[chunk.pair]) / chunk.row[PAIR_COUNT];
  const long long to_real = places[2 * chunk.pair], to_generated = places[2 * chunk.pair + 1];
  chunk.each([&](long long first, int left, const float (&r)[EACH], const float (&g)[EACH]) {
    float of_real[EACH], of_generated[EACH];
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      of_generated[i] = g[i] > r[i] ? by : g[i] < r[i] ? -by : (g[i] - r[i]) * by;
      of_real[i] = -of_generated[i];
    }
    const auto write = [&](long long place, const float (&values)[EACH]) {
      if (place < 0) return;
      if (left == EACH) return store_whole(grads + place + first, values);
      store<false>(grads + place + first, values, left);
    };
    write(to_real, of_real);
    write(to_generated, of_generated);
  });
}
