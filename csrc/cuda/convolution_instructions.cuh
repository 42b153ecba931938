// What PTX has and C++ has not: copies that nobody waits for, 8 × 8 matrices of a warp.
#pragma once

#include "matrix_units.cuh"

using Chunk = uint4;  // 16 bytes

template <class T>
constexpr int CHUNK = 16 / sizeof(T);  // elements

// The address of something in shared memory, as instructions take it.
DEVICE unsigned shared_address(const void *place) {
  return static_cast<unsigned>(__cvta_generic_to_shared(place));
}

DEVICE Chunk fetch_chunk(const void *from) {
  Chunk found;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(found.x), "=r"(found.y), "=r"(found.z), "=r"(found.w)
               : "l"(from)
               : "memory");
  return found;
}

DEVICE void give_chunk(void *to, const Chunk &chunk) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(chunk.x), "r"(chunk.y), "r"(chunk.z),
               "r"(chunk.w)
               : "memory");
}

// BYTES from global to shared memory, or as many zeros. Nobody waits for it but `wait_for_copies`.
template <int BYTES>
DEVICE void copy(unsigned to, const void *from, bool inside) {
#if __CUDA_ARCH__ >= 800
  if constexpr (BYTES >= 4) {
    const int size = inside ? BYTES : 0;
    if constexpr (BYTES == 16) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(size)
                   : "memory");
    } else {
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(BYTES), "r"(size)
                   : "memory");
    }
    return;
  }
#endif
  if constexpr (BYTES == 16) {
    Chunk value = {0, 0, 0, 0};
    if (inside) value = fetch_chunk(from);
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(value.x), "r"(value.y),
                 "r"(value.z), "r"(value.w)
                 : "memory");
  } else if constexpr (BYTES == 8) {
    uint2 value = {0, 0};
    if (inside) value = *static_cast<const uint2 *>(from);
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(to), "r"(value.x), "r"(value.y) : "memory");
  } else if constexpr (BYTES == 4) {
    const unsigned value = inside ? *static_cast<const unsigned *>(from) : 0;
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
  } else {
    const unsigned short value = inside ? *static_cast<const unsigned short *>(from) : 0;
    asm volatile("st.shared.u16 [%0], %1;" ::"r"(to), "h"(value) : "memory");
  }
}

// What this thread has copied since the last call is one group.
DEVICE void end_group() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the LEFT latest groups of this thread are on their way.
template <int LEFT>
DEVICE void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}

DEVICE Chunk load_chunk(unsigned from) {
  Chunk found;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(found.x), "=r"(found.y), "=r"(found.z), "=r"(found.w)
               : "r"(from)
               : "memory");
  return found;
}

DEVICE float2 load_floats(unsigned from) {
  float2 found;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(found.x), "=f"(found.y) : "r"(from) : "memory");
  return found;
}

DEVICE unsigned load_word(unsigned from) {
  unsigned found;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(found) : "r"(from) : "memory");
  return found;
}

DEVICE void store_word(unsigned to, unsigned word) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(word) : "memory");
}

// COUNT matrices of 8 rows of 16 bytes; lane 8 · n + r has the address of row r of matrix n. TURNED: of
// 16-bit elements columns are taken for rows.
template <int COUNT, bool TURNED = false>
DEVICE void load_matrices(unsigned (&to)[COUNT], unsigned from) {
  static_assert(COUNT == 1 || COUNT == 2 || COUNT == 4);
  if constexpr (COUNT == 4 && TURNED) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
  } else if constexpr (COUNT == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
  } else if constexpr (COUNT == 2 && TURNED) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(from)
                 : "memory");
  } else if constexpr (COUNT == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(from)
                 : "memory");
  } else if constexpr (TURNED) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(to[0])
                 : "r"(from)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(to[0]) : "r"(from) : "memory");
  }
}

// The nth word of a chunk.
DEVICE unsigned word_of(const Chunk &chunk, int n) {
  return n == 0 ? chunk.x : n == 1 ? chunk.y : n == 2 ? chunk.z : chunk.w;
}

// How maps' elements are multiplied: float32 in TF32 by the matrix units, or by fused multiply-adds.
template <class T, bool TF32>
struct Kind {
  using Stored = T;
  static constexpr bool IN_TF32 = TF32 && sizeof(T) == 4;
};
