// Sums over a warp and over a block, in one order.
#pragma once

inline float warp_sum(float value) {
  for (int by = 16; by; by /= 2) value += __shfl_xor_sync(0xFFFFFFFF, value, by);
  return value;
}

// Of all threads, to all threads. The block's warps are at most 32, and all of it must be here.
template <int THREADS_OF_BLOCK>
inline float block_sum(float value) {
  static_assert(THREADS_OF_BLOCK % 32 == 0 && THREADS_OF_BLOCK <= 1024);
  __shared__ float sums[THREADS_OF_BLOCK / 32];
  value = warp_sum(value);
  __syncthreads();  // of an earlier sum all have read
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0;
  for (int i = 0; i < THREADS_OF_BLOCK / 32; ++i) total += sums[i];
  return total;
}
