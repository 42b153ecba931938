// A warp's part of a matrix product out of shared memory: ROWS × COLUMNS float32 sums in its registers.
//
// An operand's `row(eights, own)` + `at(own, chunk)` is the address in shared memory of 16 bytes of its row
// eights + own, where `eights` is a multiple of 8. A plain one has the sum's dimension along its chunks, a
// turned one along its rows. Matrix units take two chunks at a time, or as many rows; fused multiply-adds
// one. Of a plain left operand each lane knows its own rows: `at(chunk)` is of the first, the i-th is
// `shift(i)` further.
#pragma once

#include "convolution_fused.cuh"
#include "convolution_matrix.cuh"
#include "convolution_warpgroup.cuh"

// A chunk's elements in global memory as float32; of a WHOLE one all are there and aligned, else `there` of
// them.
template <bool WHOLE, class T>
DEVICE void load_values(const T *from, int there, float (&values)[CHUNK<T>]) {
  if constexpr (WHOLE) {
    const Chunk chunk = fetch_chunk(from);
#pragma unroll
    for (int n = 0; n < CHUNK<T>; ++n) {
      if constexpr (sizeof(T) == 4) {
        values[n] = __uint_as_float(word_of(chunk, n));
      } else {
        values[n] = wide(T{static_cast<unsigned short>(word_of(chunk, n / 2) >> n % 2 * 16)});
      }
    }
  } else {
#pragma unroll
    for (int n = 0; n < CHUNK<T>; ++n) values[n] = n < there ? wide(from[n]) : 0.0f;
  }
}

template <bool WHOLE, class T>
DEVICE void store_values(T *to, int there, const float (&v)[CHUNK<T>]) {
  if constexpr (WHOLE && sizeof(T) == 4) {
    give_chunk(to,
               {__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3])});
  } else if constexpr (WHOLE) {
    give_chunk(to, {pair<T>(v[0], v[1]), pair<T>(v[2], v[3]), pair<T>(v[4], v[5]), pair<T>(v[6], v[7])});
  } else {
#pragma unroll
    for (int n = 0; n < CHUNK<T>; ++n) {
      if (n < there) to[n] = narrow<T>(v[n]);
    }
  }
}

// The one for a kind of elements. LEFT_TURNED: that operand is. ROUND_LEFT, ROUND_RIGHT: it is float32 that
// is not yet rounded to TF32.
template <class Kind, int ROWS, int COLUMNS, bool LEFT_TURNED, bool ROUND_LEFT, bool ROUND_RIGHT>
struct TileOf {
  using Type = MatrixTile<typename Kind::Stored, ROWS, COLUMNS, ROUND_LEFT && Kind::IN_TF32,
                          ROUND_RIGHT && Kind::IN_TF32>;
};

template <int ROWS, int COLUMNS, bool LEFT_TURNED, bool ROUND_LEFT, bool ROUND_RIGHT>
struct TileOf<Kind<float, false>, ROWS, COLUMNS, LEFT_TURNED, ROUND_LEFT, ROUND_RIGHT> {
  using Type = FusedTile<ROWS, COLUMNS, LEFT_TURNED>;
};
