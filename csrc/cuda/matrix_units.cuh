// Products of the matrix units.
#pragma once

#include "elements.cuh"

#define DEVICE __device__ __forceinline__

// d += a b of a warp, float in TF32: 16 rows, 8 columns, two chunks deep.
template <class T>
DEVICE void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

// The same, one chunk deep: of the first two registers of a, and one of b.
template <class T>
DEVICE void multiply_chunk(float (&d)[4], unsigned a0, unsigned a1, unsigned b0);

#define MULTIPLY(T, shape, type)                                                           \
  template <>                                                                              \
  DEVICE void multiply<T>(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { \
    asm("mma.sync.aligned." shape ".row.col.f32." type "." type                            \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"             \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                   \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));               \
  }
#define MULTIPLY_CHUNK(T, shape, type)                                                  \
  template <>                                                                           \
  DEVICE void multiply_chunk<T>(float (&d)[4], unsigned a0, unsigned a1, unsigned b0) { \
    asm("mma.sync.aligned." shape ".row.col.f32." type "." type                         \
        ".f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"                      \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                \
        : "r"(a0), "r"(a1), "r"(b0));                                                   \
  }

MULTIPLY_CHUNK(Float16, "m16n8k8", "f16")
#if __CUDA_ARCH__ >= 800
MULTIPLY(Float16, "m16n8k16", "f16")
MULTIPLY(Bfloat16, "m16n8k16", "bf16")
MULTIPLY(float, "m16n8k8", "tf32")
MULTIPLY_CHUNK(Bfloat16, "m16n8k8", "bf16")
MULTIPLY_CHUNK(float, "m16n8k4", "tf32")
#else
template <>
DEVICE void multiply<Float16>(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  multiply_chunk<Float16>(d, a[0], a[1], b[0]);
  multiply_chunk<Float16>(d, a[2], a[3], b[1]);
}
#endif
#undef MULTIPLY
#undef MULTIPLY_CHUNK
