// Feature matching: the mean |real - generated| of each pair of maps, and its gradient.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace hifigan {
namespace HIFIGAN_ISA {

template <class T>
int64_t l1_chunks(const MapPair<T> &pair) {
  return ceil_div(pair.count, kL1Chunk);
}

// Calls body(pair index, chunk of the pair, chunk among all).
template <class T, class Body>
void for_l1_chunks(const MapPair<T> *pairs, int64_t pair_count, int threads, const Body &body) {
  int64_t tasks = 0;
  for (int64_t i = 0; i < pair_count; ++i) tasks += l1_chunks(pairs[i]);
  parallel_for(threads, tasks, [&](int64_t task) {
    int64_t index = 0, chunk = task;
    for (; chunk >= l1_chunks(pairs[index]); ++index) chunk -= l1_chunks(pairs[index]);
    body(index, chunk, task);
  });
}

// means[pair]; `partial` has room for every pair's chunks.
template <class T>
void feature_l1(const MapPair<T> *pairs, int64_t pair_count, double *partial, float *means, int threads) {
  for_l1_chunks(pairs, pair_count, threads, [&](int64_t index, int64_t chunk, int64_t task) {
    const MapPair<T> &pair = pairs[index];
    const int64_t end = lesser(pair.count, (chunk + 1) * kL1Chunk);
    Vec sums = {};
    for (int64_t i = chunk * kL1Chunk; i < end; i += kWidth) {
      const int64_t lanes = lesser(kWidth, end - i);
      const Vec d = load_lanes(pair.real + i, lanes) - load_lanes(pair.generated + i, lanes);
      sums += d < 0.0f ? -d : d;
    }
    const double total = sum(sums);
    partial[task] = total;
  });
  for (int64_t i = 0; i < pair_count; ++i) {
    double total = 0;
    for (int64_t c = 0; c < l1_chunks(pairs[i]); ++c) total += *partial++;
    means[i] = static_cast<float>(total / static_cast<double>(pairs[i].count));
  }
}

// grads[pair] is the loss's gradient by the pair's mean.
template <class T>
void feature_l1_grad(const MapPair<T> *pairs, int64_t pair_count, const float *grads, int threads) {
  for_l1_chunks(pairs, pair_count, threads, [&](int64_t index, int64_t chunk, int64_t) {
    const MapPair<T> &pair = pairs[index];
    const float scale = grads[index] / static_cast<float>(pair.count);
    const int64_t end = lesser(pair.count, (chunk + 1) * kL1Chunk);
    for (int64_t i = chunk * kL1Chunk; i < end; i += kWidth) {
      const int64_t lanes = lesser(kWidth, end - i);
      const Vec d = load_lanes(pair.generated + i, lanes) - load_lanes(pair.real + i, lanes);
      const Vec grad = signed_as(d, scale);
      if (pair.grad_generated) store_lanes(pair.grad_generated + i, grad, lanes);
      if (pair.grad_real) store_lanes(pair.grad_real + i, -grad, lanes);
    }
  });
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
