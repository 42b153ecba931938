// Elements side by side: as many as 16 bytes hold are read and written at once, where they are aligned and
// all there.
#pragma once

#include "elements.cuh"

template <class T>
struct Chunk {
  static constexpr int COUNT = 16 / sizeof(T);
};

// As many words as are accessed at once.
template <int WORDS>
struct alignas(4 * WORDS) Words {
  unsigned of[WORDS];
};

template <int WORDS>
inline void read(Words<WORDS> &words, const void *from) {
  if constexpr (WORDS == 4) {
    const uint4 found = *static_cast<const uint4 *>(from);
    words = {found.x, found.y, found.z, found.w};
  } else {
    static_assert(WORDS == 2);
    const uint2 found = *static_cast<const uint2 *>(from);
    words = {found.x, found.y};
  }
}

// To global memory. By name: the compiler would rather take a store apart than move it behind a branch.
template <int WORDS>
inline void write(void *to, const Words<WORDS> &words) {
  const unsigned long long place = __cvta_generic_to_global(to);
  if constexpr (WORDS == 4) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(place), "r"(words.of[0]), "r"(words.of[1]),
                 "r"(words.of[2]), "r"(words.of[3])
                 : "memory");
  } else {
    static_assert(WORDS == 2);
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(place), "r"(words.of[0]), "r"(words.of[1])
                 : "memory");
  }
}

// An element as it is, or as float.
template <class V, class T>
inline V as(T value) {
  if constexpr (sizeof(V) == sizeof(T))
    return value;
  else
    return wide(value);
}

// values[i] = from[i], elements or floats; of an aligned address, COUNT a multiple of a chunk, or half of
// one.
template <class V, class T, int COUNT>
inline void load_whole(V (&values)[COUNT], const T *from) {
  constexpr int EACH = Chunk<T>::COUNT < COUNT ? Chunk<T>::COUNT : COUNT;
#pragma unroll
  for (int first = 0; first < COUNT; first += EACH) {
    Words<EACH * sizeof(T) / 4> words;
    read(words, from + first);
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      if constexpr (sizeof(T) == 4)
        values[first + i] = __uint_as_float(words.of[i]);
      else
        values[first + i] = as<V>(T{static_cast<unsigned short>(words.of[i / 2] >> 16 * (i % 2))});
    }
  }
}

template <class T, int COUNT>
inline void store_whole(T *to, const float (&values)[COUNT]) {
  constexpr int EACH = Chunk<T>::COUNT < COUNT ? Chunk<T>::COUNT : COUNT;
#pragma unroll
  for (int first = 0; first < COUNT; first += EACH) {
    Words<EACH * sizeof(T) / 4> words = {};
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      if constexpr (sizeof(T) == 4)
        words.of[i] = __float_as_uint(values[first + i]);
      else if (i % 2 == 0)
        words.of[i / 2] = pair<T>(values[first + i], values[first + i + 1]);
    }
    write(to + first, words);
  }
}

// The first `left` of COUNT elements, zeros behind them. WHOLE: chunks are aligned, and all there or none.
template <bool WHOLE, class V, class T, int COUNT>
inline void load(V (&values)[COUNT], const T *from, int left) {
  if (WHOLE && left > 0) return load_whole(values, from);
#pragma unroll
  for (int i = 0; i < COUNT; ++i) values[i] = i < left ? as<V>(from[i]) : V{};
}

template <bool WHOLE, class T, int COUNT>
inline void store(T *to, const float (&values)[COUNT], int left) {
  if (WHOLE && left > 0) return store_whole(to, values);
#pragma unroll
  for (int i = 0; i < COUNT; ++i)
    if (i < left) to[i] = narrow<T>(values[i]);
}
