// A block's items, some of a thread at a time: their loads are under way together. An item is SIDE elements
// side by side, which come and go at once: four where all begin at a multiple of four, or one.
#pragma once

#include "chunks.cuh"
#include "specialised.cuh"

template <int SIDE>
struct Batch {  // of one thread
  static constexpr int COUNT = SIDE == 1 ? 1 : 2, ELEMENTS = SIDE;
  int first, count;

  bool live(int j) const { return first + j * THREADS < count; }
  int item(int j) const { return min(first + j * THREADS, count - 1); }  // the last one again behind it
};

// each(a `Batch`) of `count` items.
template <int SIDE, class Each>
inline void batches(int count, Each each) {
  for (int first = threadIdx.x; first < count; first += Batch<SIDE>::COUNT * THREADS)
    each(Batch<SIDE>{first, count});
}

// Whether four elements from here on come at once.
template <class T>
inline bool by_fours(const T *from) {
  return reinterpret_cast<unsigned long long>(from) % (4 * sizeof(T)) == 0;
}

template <class T, int SIDE>
inline void load_item(float (&values)[SIDE], const T *from) {
  if constexpr (SIDE == 1)
    values[0] = wide(*from);
  else
    load_whole(values, from);
}

template <class T, int SIDE>
inline void store_item(T *to, const float (&values)[SIDE]) {
  if constexpr (SIDE == 1)
    *to = narrow<T>(values[0]);
  else
    store_whole(to, values);
}

// Asks for `count` elements, which come to the second cache meanwhile. From Ada Lovelace on: caches of most
// before it do not hold the rows of all blocks.
template <class T>
inline void ask_for(const T *from, int count) {
#if __CUDA_ARCH__ >= 890
  constexpr int LINE = 128 / sizeof(T);
  for (int at = threadIdx.x * LINE; at < count; at += THREADS * LINE)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(from + at)));
#endif
}
