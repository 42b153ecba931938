// (grad_total + grad_means[part]) · 2 (score - target) / elements
#include "scores.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    squared_means_gradients(const __grid_constant__ Pointers<const scores_t, scores_n> scores,
                            const grad_total_t *grad_total, const grad_means_t *grad_means, grads_t *grads,
                            const long long *parts) {
  const Part part = part_of(scores, parts, blockIdx.x);
  if (part.grad < 0) return;
  float by = 0;
  if (grad_total) by += wide(*grad_total);
  if (grad_means) by += wide(grad_means[blockIdx.x]);
  by = 2 * by / part.count;
  for (long long first = static_cast<long long>(blockIdx.y) * BLOCK; first < part.count;
       first += gridDim.y * BLOCK)
    for (long long at = first + threadIdx.x; at < min(first + BLOCK, part.count); at += THREADS)
      grads[part.grad + at] = narrow<grads_t>(by * (wide(part.own[at]) - part.target));
}
