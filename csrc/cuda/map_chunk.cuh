// A chunk of a pair of maps, one program's: 16 bytes of each at a time, where both are aligned.
#pragma once

#include "chunks.cuh"
#include "rows.cuh"
#include "specialised.cuh"

constexpr int EACH = Chunk<real_t>::COUNT;

struct MapChunk {
  int pair;
  const long long *row;
  const real_t *real;
  const generated_t *generated;
  long long begin, end;
  bool aligned;

  static MapChunk of(const Pointers<const real_t, real_n> &real,
                     const Pointers<const generated_t, generated_n> &generated, const long long *chunks,
                     const long long *pairs) {
    const long long *chunk = chunks + CHUNK_FIELDS * blockIdx.x;
    const int pair = chunk[CHUNK_PAIR];
    const long long *row = pairs + PAIR_FIELDS * pair;
    const real_t *r = real.of[pair] + row[PAIR_LEAD_REAL];
    const generated_t *g = generated.of[pair] + row[PAIR_LEAD_GENERATED];
    const bool aligned =
        (reinterpret_cast<unsigned long long>(r) | reinterpret_cast<unsigned long long>(g)) % 16 == 0;
    return {pair, row, r, g, chunk[CHUNK_FIRST], chunk[CHUNK_END], aligned};
  }

  // each(first element, elements, their values): EACH of them or the last ones. Chunks begin at a multiple.
  template <class Call>
  void each(Call call) const {
    for (long long first = begin + threadIdx.x * EACH; first < end; first += THREADS * EACH) {
      const int left = min(end - first, static_cast<long long>(EACH));
      float r[EACH], g[EACH];
      if (aligned && left == EACH) {
        load_whole(r, real + first);
        load_whole(g, generated + first);
      } else {
        load<false>(r, real + first, left);
        load<false>(g, generated + first, left);
      }
      call(first, left, r, g);
    }
  }
};
