// Elements side by side: as many as 16 bytes hold are read and written at once, where they are aligned and
// all there.
#pragma once

#include "elements.cuh"

template <class T>
struct Chunk {
  static constexpr int COUNT = 16 / sizeof(T);
};

// values[i] = from[i]; of an aligned address, COUNT a multiple of a chunk.
template <class T, int COUNT>
inline void load_whole(float (&values)[COUNT], const T *from) {
  constexpr int EACH = Chunk<T>::COUNT < COUNT ? Chunk<T>::COUNT : COUNT;
#pragma unroll
  for (int first = 0; first < COUNT; first += EACH) {
    struct alignas(EACH * sizeof(T)) Whole {
      T of[EACH];
    } whole = *reinterpret_cast<const Whole *>(from + first);
#pragma unroll
    for (int i = 0; i < EACH; ++i) values[first + i] = wide(whole.of[i]);
  }
}

template <class T, int COUNT>
inline void store_whole(T *to, const float (&values)[COUNT]) {
  constexpr int EACH = Chunk<T>::COUNT < COUNT ? Chunk<T>::COUNT : COUNT;
#pragma unroll
  for (int first = 0; first < COUNT; first += EACH) {
    struct alignas(EACH * sizeof(T)) Whole {
      T of[EACH];
    } whole;
#pragma unroll
    for (int i = 0; i < EACH; ++i) whole.of[i] = narrow<T>(values[first + i]);
    *reinterpret_cast<Whole *>(to + first) = whole;
  }
}

// The first `left` of COUNT elements, zeros behind them. WHOLE: chunks are aligned, and all there or none.
template <bool WHOLE, class T, int COUNT>
inline void load(float (&values)[COUNT], const T *from, int left) {
  if (WHOLE && left > 0) return load_whole(values, from);
#pragma unroll
  for (int i = 0; i < COUNT; ++i) values[i] = i < left ? wide(from[i]) : 0;
}

template <bool WHOLE, class T, int COUNT>
inline void store(T *to, const float (&values)[COUNT], int left) {
  if (WHOLE && left > 0) return store_whole(to, values);
#pragma unroll
  for (int i = 0; i < COUNT; ++i)
    if (i < left) to[i] = narrow<T>(values[i]);
}
