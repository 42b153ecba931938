// Included before all else where AddressSanitizer watches AVX-512 kernels: GCC's does not see masked
// loads and stores, so that they are made of copies here, which it does.
#pragma once

#include <immintrin.h>

#include <cstring>

inline __m512 copied_load(__mmask16 mask, const void *from) {  // of the first lanes
  __m512 v = {};
  std::memcpy(&v, from, sizeof(float) * static_cast<std::size_t>(__builtin_popcount(mask)));
  return v;
}
inline void copied_store(void *to, __mmask16 mask, __m512 v) {
  std::memcpy(to, &v, sizeof(float) * static_cast<std::size_t>(__builtin_popcount(mask)));
}
#define _mm512_maskz_loadu_ps copied_load
#define _mm512_mask_storeu_ps copied_store
