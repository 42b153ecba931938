// Feature matching: the mean |real - generated| of each pair of maps, and its gradient.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace hifigan {
namespace HIFIGAN_ISA {

inline int64_t l1_chunks(const MapPair &pair) { return ceil_div(pair.count, kL1Chunk); }

// Calls body(pair index, chunk of the pair, chunk among all).
template <class Body>
void for_chunks(const MapPair *pairs, int64_t pair_count, int threads, const Body &body) {
  int64_t tasks = 0;
  for (int64_t i = 0; i < pair_count; ++i) tasks += l1_chunks(pairs[i]);
  parallel_for(threads, tasks, [&](int64_t task) {
    int64_t index = 0, chunk = task;
    for (; chunk >= l1_chunks(pairs[index]); ++index) chunk -= l1_chunks(pairs[index]);
    body(index, chunk, task);
  });
}

// means[pair]; `partial` has room for every pair's chunks.
inline void feature_l1(const MapPair *pairs, int64_t pair_count, double *partial, float *means, int threads) {
  for_chunks(pairs, pair_count, threads, [&](int64_t index, int64_t chunk, int64_t task) {
    const MapPair &pair = pairs[index];
    const int64_t end = lesser(pair.count, (chunk + 1) * kL1Chunk);
    int64_t i = chunk * kL1Chunk;
    Vec sums = {};
    for (; i + kWidth <= end; i += kWidth) {
      const Vec d = load(pair.real + i) - load(pair.generated + i);
      sums += d < 0.0f ? -d : d;
    }
    double total = sum(sums);
    for (; i < end; ++i) total += __builtin_fabsf(pair.real[i] - pair.generated[i]);
    partial[task] = total;
  });
  for (int64_t i = 0; i < pair_count; ++i) {
    double total = 0;
    for (int64_t c = 0; c < l1_chunks(pairs[i]); ++c) total += *partial++;
    means[i] = static_cast<float>(total / static_cast<double>(pairs[i].count));
  }
}

// grads[pair] is the loss's gradient by the pair's mean.
inline void feature_l1_grad(const MapPair *pairs, int64_t pair_count, const float *grads, int threads) {
  for_chunks(pairs, pair_count, threads, [&](int64_t index, int64_t chunk, int64_t) {
    const MapPair &pair = pairs[index];
    const float scale = grads[index] / static_cast<float>(pair.count);
    for (int64_t i = chunk * kL1Chunk; i < lesser(pair.count, (chunk + 1) * kL1Chunk); ++i) {
      const float d = pair.generated[i] - pair.real[i];
      const float grad = d > 0.0f ? scale : d < 0.0f ? -scale : d * scale;  // 0, or NaN
      if (pair.grad_generated) pair.grad_generated[i] = grad;
      if (pair.grad_real) pair.grad_real[i] = -grad;
    }
  });
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
