// means[part] = the mean of (score - target)², and their sum: one block of threads, a warp a part.
#include "reduce.cuh"
#include "scores.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    squared_means(const __grid_constant__ Pointers<const scores_t, scores_n> scores,
                  sum_of_means_t *sum_of_means, means_t *means, const long long *parts) {
  __shared__ float found[PARTS];
  for (int number = threadIdx.x / 32; number < PARTS; number += THREADS / 32) {
    const Part part = part_of(scores, parts, number);
    float squares = 0;
    for (long long at = threadIdx.x % 32; at < part.count; at += 32) {
      const float away = wide(part.own[at]) - part.target;
      squares += away * away;
    }
    squares = warp_sum(squares) / part.count;
    if (threadIdx.x % 32 == 0) {
      found[number] = squares;
      means[number] = narrow<means_t>(squares);
    }
  }
  __syncthreads();
  if (threadIdx.x) return;
  float total = 0;
  for (int number = 0; number < PARTS; ++number) total += found[number];
  *sum_of_means = narrow<sum_of_means_t>(total);
}
