// Real discrete Fourier transforms of short, even or odd length, on vectors: every lane is a channel.
#pragma once

#include "simd.h"

namespace hifigan {
namespace HIFIGAN_ISA {

// cos(2 pi k / n) while compiling: no table is filled when the module loads.
constexpr double cosine(int64_t k, int64_t n) {
  k = k % n < 0 ? k % n + n : k % n;
  if (2 * k > n) k = n - k;
  if (4 * k > n) return -cosine(n - 2 * k, 2 * n);
  double angle = 6.283185307179586476925286766559 * static_cast<double>(k) / static_cast<double>(n);
  double term = 1.0, total = 1.0;
  for (int i = 1; i < 16; ++i) {
    term *= -angle * angle / (2 * i * (2 * i - 1));
    total += term;
  }
  return 4 * k == n ? 0.0 : total;
}

template <int N>
struct Roots {  // e^(2 pi i k / N) = cosine[k] + i sine[k]
  float cosine[N], sine[N];
  constexpr Roots() : cosine{}, sine{} {
    for (int k = 0; k < N; ++k) {
      cosine[k] = static_cast<float>(HIFIGAN_ISA::cosine(k, N));
      sine[k] = static_cast<float>(HIFIGAN_ISA::cosine(4 * k - N, 4 * N));
    }
  }
};
template <int N>
constexpr Roots<N> kRoots{};

template <int N, int T>
struct FirstRoots {  // e^(2 pi i j k / N) by k and j
  float cosine[N / 2 + 1][T], sine[N / 2 + 1][T];
  constexpr FirstRoots() : cosine{}, sine{} {
    for (int k = 0; k <= N / 2; ++k)
      for (int j = 0; j < T; ++j) {
        cosine[k][j] = kRoots<N>.cosine[j * k % N];
        sine[k][j] = kRoots<N>.sine[j * k % N];
      }
  }
};
template <int N, int T>
constexpr FirstRoots<N, T> kFirstRoots{};

template <int N>
struct Fourier {
  static constexpr int kHalf = N / 2;

  // re[k] + i im[k] = sum over j of x[j * step] e^(-2 pi i j k / N), k = 0 ... N / 2. The imaginary
  // parts that are always zero (k = 0, k = N / 2 of an even N) are not written.
  static inline void forward(const Vec *x, int step, Vec *re, Vec *im) {
    if constexpr (N == 1) {
      re[0] = x[0];
    } else if constexpr (N % 2) {
      re[0] = x[0];
      Vec even[kHalf], odd[kHalf];
#pragma GCC unroll 16
      for (int j = 1; j <= kHalf; ++j) {
        even[j - 1] = x[j * step] + x[(N - j) * step];
        odd[j - 1] = x[j * step] - x[(N - j) * step];
        re[0] += even[j - 1];
      }
#pragma GCC unroll 16
      for (int k = 1; k <= kHalf; ++k) {
        re[k] = x[0];
        im[k] = Vec{};
#pragma GCC unroll 16
        for (int j = 1; j <= kHalf; ++j) {
          re[k] += kRoots<N>.cosine[j * k % N] * even[j - 1];
          im[k] -= kRoots<N>.sine[j * k % N] * odd[j - 1];
        }
      }
    } else {
      Vec even_re[kHalf / 2 + 1], even_im[kHalf / 2 + 1], odd_re[kHalf / 2 + 1], odd_im[kHalf / 2 + 1];
      Fourier<kHalf>::forward(x, 2 * step, even_re, even_im);
      Fourier<kHalf>::forward(x + step, 2 * step, odd_re, odd_im);
      re[0] = even_re[0] + odd_re[0];
      re[kHalf] = even_re[0] - odd_re[0];
#pragma GCC unroll 16
      for (int k = 1; 2 * k < kHalf; ++k) {
        const float c = kRoots<N>.cosine[k], s = kRoots<N>.sine[k];
        const Vec turned_re = c * odd_re[k] + s * odd_im[k], turned_im = c * odd_im[k] - s * odd_re[k];
        re[k] = even_re[k] + turned_re;
        im[k] = even_im[k] + turned_im;
        re[kHalf - k] = even_re[k] - turned_re;
        im[kHalf - k] = turned_im - even_im[k];
      }
      if constexpr (kHalf % 2 == 0) {
        re[kHalf / 2] = even_re[kHalf / 2];
        im[kHalf / 2] = -odd_re[kHalf / 2];
      }
    }
  }

  // `forward` of x whose first T are all that is not zero, by the definition: less work for a small T.
  // k and N / 2 - k differ by the signs of the odd terms of re and the even ones of im.
  template <int T>
  static inline void forward_of_first(const Vec *x, Vec *re, Vec *im) {
    for (int k = 0; 2 * k <= kHalf; ++k) {
      Vec real[2] = {x[0], {}}, imaginary[2] = {};  // the even terms, the odd ones
#pragma GCC unroll 16
      for (int j = 1; j < T; ++j) {
        real[j % 2] += kFirstRoots<N, T>.cosine[k][j] * x[j];
        imaginary[j % 2] -= kFirstRoots<N, T>.sine[k][j] * x[j];
      }
      re[kHalf - k] = real[0] - real[1];
      im[kHalf - k] = imaginary[1] - imaginary[0];
      re[k] = real[0] + real[1];
      im[k] = imaginary[0] + imaginary[1];
    }
  }

  // The first T results of `backward`, N even.
  template <int T>
  static inline void first_of_backward(const Vec *re, const Vec *im, Vec *x) {
    Vec total[T];
#pragma GCC unroll 16
    for (int j = 0; j < T; ++j) total[j] = Vec{};
    const auto add = [&](int k, const Vec *real, const Vec *imaginary) {  // [0]: to even j, [1]: to odd ones
#pragma GCC unroll 16
      for (int j = 0; j < T; ++j) {
        total[j] += kFirstRoots<N, T>.cosine[k][j] * real[j % 2];
        if (j) total[j] -= kFirstRoots<N, T>.sine[k][j] * imaginary[j % 2];
      }
    };
    for (int k = 1; 2 * k < kHalf; ++k) {
      const int other = kHalf - k;
      const Vec real[2] = {re[k] + re[other], re[k] - re[other]};
      const Vec imaginary[2] = {im[k] - im[other], im[k] + im[other]};
      add(k, real, imaginary);
    }
    if constexpr (kHalf % 2 == 0) {
      const Vec real[2] = {re[kHalf / 2], re[kHalf / 2]}, imaginary[2] = {im[kHalf / 2], im[kHalf / 2]};
      add(kHalf / 2, real, imaginary);
    }
#pragma GCC unroll 16
    for (int j = 0; j < T; ++j) x[j] = 2.0f * total[j] + (j % 2 ? re[0] - re[kHalf] : re[0] + re[kHalf]);
  }

  // x[j * step] = sum over k = 0 ... N - 1 of (re[k] + i im[k]) e^(2 pi i j k / N): N times the inverse.
  static inline void backward(const Vec *re, const Vec *im, Vec *x, int step) {
    if constexpr (N == 1) {
      x[0] = re[0];
    } else if constexpr (N % 2) {
      x[0] = re[0];
#pragma GCC unroll 16
      for (int k = 1; k <= kHalf; ++k) x[0] += 2.0f * re[k];
#pragma GCC unroll 16
      for (int j = 1; j <= kHalf; ++j) {
        Vec even = re[0], odd = {};
#pragma GCC unroll 16
        for (int k = 1; k <= kHalf; ++k) {
          even += 2.0f * kRoots<N>.cosine[j * k % N] * re[k];
          odd += 2.0f * kRoots<N>.sine[j * k % N] * im[k];
        }
        x[j * step] = even - odd;
        x[(N - j) * step] = even + odd;
      }
    } else {
      Vec even_re[kHalf / 2 + 1], even_im[kHalf / 2 + 1], odd_re[kHalf / 2 + 1], odd_im[kHalf / 2 + 1];
      even_re[0] = re[0] + re[kHalf];
      odd_re[0] = re[0] - re[kHalf];
#pragma GCC unroll 16
      for (int k = 1; 2 * k < kHalf; ++k) {
        const float c = kRoots<N>.cosine[k], s = kRoots<N>.sine[k];
        const Vec apart_re = re[k] - re[kHalf - k], apart_im = im[k] + im[kHalf - k];
        even_re[k] = re[k] + re[kHalf - k];
        even_im[k] = im[k] - im[kHalf - k];
        odd_re[k] = c * apart_re - s * apart_im;
        odd_im[k] = s * apart_re + c * apart_im;
      }
      if constexpr (kHalf % 2 == 0) {
        even_re[kHalf / 2] = 2.0f * re[kHalf / 2];
        odd_re[kHalf / 2] = -2.0f * im[kHalf / 2];
      }
      Fourier<kHalf>::backward(even_re, even_im, x, 2 * step);
      Fourier<kHalf>::backward(odd_re, odd_im, x + step, 2 * step);
    }
  }
};

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
