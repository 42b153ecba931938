// A product of two matrices in float32, any sizes: BM × BN results a block of threads, BK terms at a time.
// The kernels of it are right for every geometry, not fast; parts of BK terms are summed up before they are
// added to the others.
#pragma once

#include "specialised.cuh"

constexpr int OWN = BM * BN / THREADS;  // results of a thread: rows from its first on, of one column
static_assert(THREADS % BN == 0 && OWN * (THREADS / BN) == BM);

struct Tiles {
  float left[BK][BM + 1], right[BK][BN + 1];
};

inline int own_column() { return threadIdx.x % BN; }
inline int own_row(int i) { return threadIdx.x / BN * OWN + i; }

// tile[k][at] = load(at, k). Neighbours in memory are neighbours along k, or along the tile's other side.
template <bool ALONG_K, int WIDTH, class Load>
inline void fill(float (&tile)[BK][WIDTH + 1], Load load) {
  for (int i = threadIdx.x; i < BK * WIDTH; i += THREADS) {
    const int k = ALONG_K ? i % BK : i / WIDTH, at = ALONG_K ? i / BK : i % WIDTH;
    tile[k][at] = load(at, k);
  }
}

// sums += left · right of what was filled in by all threads.
inline void add_product(float (&sums)[OWN], const Tiles &tiles) {
  float part[OWN] = {};
  for (int k = 0; k < BK; ++k) {
    const float right = tiles.right[k][own_column()];
#pragma unroll
    for (int i = 0; i < OWN; ++i) part[i] += tiles.left[k][own_row(i)] * right;
  }
#pragma unroll
  for (int i = 0; i < OWN; ++i) sums[i] += part[i];
}
