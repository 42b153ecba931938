// Elements of maps, waveforms and parameters, and pointers of which one is picked by a number that only the
// device knows.
#pragma once

struct Bfloat16 {
  unsigned short bits;
};

struct Float16 {
  unsigned short bits;
};

inline float wide(float value) { return value; }
inline float wide(Bfloat16 value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }
inline float wide(Float16 value) {
  float found;
  asm("cvt.f32.f16 %0, %1;" : "=f"(found) : "h"(value.bits));
  return found;
}

// To the nearest, as PyTorch rounds.
template <class T>
inline T narrow(float value);
template <>
inline float narrow<float>(float value) {
  return value;
}
template <>
inline Float16 narrow<Float16>(float value) {
  Float16 found;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(found.bits) : "f"(value));
  return found;
}
template <>
inline Bfloat16 narrow<Bfloat16>(float value) {
  Bfloat16 found;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(found.bits) : "f"(value));
#else
  const unsigned bits = __float_as_uint(value);
  found.bits = value != value ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
#endif
  return found;
}

// Two neighbours as they lie; `low` comes first.
template <class T>
inline unsigned word(T low, T high) {
  return low.bits | static_cast<unsigned>(high.bits) << 16;
}

template <class T>
inline unsigned pair(float low, float high) {
  return word(narrow<T>(low), narrow<T>(high));
}
#if __CUDA_ARCH__ >= 800
template <>
inline unsigned pair<Float16>(float low, float high) {
  unsigned found;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(found) : "f"(high), "f"(low));
  return found;
}
template <>
inline unsigned pair<Bfloat16>(float low, float high) {
  unsigned found;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(found) : "f"(high), "f"(low));
  return found;
}
#endif

// float32 to the nearest of TF32: matrix units cut off the bits that they do not take. To even is one
// instruction, which came with Hopper; away from zero is three.
inline float to_tf32(float value) {
#if __CUDA_ARCH__ >= 800
  unsigned found;
#if __CUDA_ARCH__ >= 900
  asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(found) : "f"(value));
#else
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(found) : "f"(value));
#endif
  return __uint_as_float(found);
#else
  return value;
#endif
}

template <class T, int COUNT>
struct Pointers {
  T *of[COUNT];
};

template <int NUMBER>
struct Number {
  static constexpr int value = NUMBER;
};

template <bool FIRST, class A, class B>
struct Choose {
  using Type = A;
};

template <class A, class B>
struct Choose<false, A, B> {
  using Type = B;
};

constexpr int ceil_div(int number, int by) { return (number + by - 1) / by; }
