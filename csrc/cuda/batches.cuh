// A block's items, some of a thread at a time: their loads are under way together.
#pragma once

#include "specialised.cuh"

constexpr int BATCH = 4;

struct Batch {  // of one thread
  int first, count;

  bool live(int j) const { return first + j * THREADS < count; }
  int item(int j) const { return min(first + j * THREADS, count - 1); }  // the last one again behind it
};

// each(a `Batch`) of `count` items.
template <class Each>
inline void batches(int count, Each each) {
  for (int first = threadIdx.x; first < count; first += BATCH * THREADS) each(Batch{first, count});
}
