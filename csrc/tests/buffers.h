// Buffers of exactly what a kernel may touch: noise to read, NaN where it shall write and between.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "../cpu/shapes.h"

namespace hifigan {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

using Floats = std::vector<float>;

inline std::string current;  // what runs now

[[noreturn]] inline void fail(const std::string &what) {
  std::fprintf(stderr, "odd_shapes: %s: not as it should be, %s\n", what.c_str(), current.c_str());
  std::exit(1);
}

template <class T>
T element(float value) {
  if constexpr (sizeof(T) == sizeof(BFloat16)) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return {static_cast<std::uint16_t>(bits >> 16)};
  } else {
    return value;
  }
}
inline bool finite(float value) { return std::isfinite(value); }
inline bool finite(BFloat16 value) { return (value.bits & 0x7f80) != 0x7f80; }
template <class T>
bool all_finite(const T *values, int64_t count) {
  return std::all_of(values, values + count, [](T value) { return finite(value); });
}

template <class T = float>
std::vector<T> noise(int64_t count) {
  static std::uint32_t state = 1;
  std::vector<T> values(static_cast<std::size_t>(count));
  for (T &value : values) {
    state = state * 1664525 + 1013904223;
    value = element<T>(static_cast<float>(state >> 8) / (1 << 23) - 1);
  }
  return values;
}

template <class T = float>
std::vector<T> unwritten(int64_t count) {
  return std::vector<T>(static_cast<std::size_t>(count), element<T>(kNaN));
}

template <class T>
void expect_written(std::vector<T> &values, const char *name) {
  if (!all_finite(values.data(), static_cast<int64_t>(values.size()))) fail(name);
  std::fill(values.begin(), values.end(), element<T>(kNaN));
}

// The rows of all runs in one buffer that begins and ends with them; between two runs lies NaN.
template <class T>
struct Rows {
  static constexpr int64_t kGap = 3;
  std::vector<int64_t> counts, offsets;
  int64_t channels;
  std::vector<T> elements;

  Rows(const std::vector<int64_t> &rows, int64_t row_channels, bool backwards)
      : counts(rows), offsets(rows.size()), channels(row_channels) {
    int64_t total = 0;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const std::size_t run = backwards ? counts.size() - 1 - i : i;
      offsets[run] = total + (i ? kGap : 0);
      total = offsets[run] + counts[run];
    }
    elements = unwritten<T>(total * channels);
  }
  T *data() { return elements.data(); }
  T *of(std::size_t run) { return data() + offsets[run] * channels; }
  void fill() {
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const auto values = noise<T>(counts[i] * channels);
      std::copy(values.begin(), values.end(), of(i));
    }
  }
  void zero() {
    for (std::size_t i = 0; i < counts.size(); ++i) std::fill_n(of(i), counts[i] * channels, element<T>(0));
  }
  void expect_written(const char *name) {
    for (std::size_t i = 0; i < counts.size(); ++i) {
      if (!all_finite(of(i), counts[i] * channels)) fail(name);
      std::fill_n(of(i), counts[i] * channels, element<T>(kNaN));
    }
    for (const T value : elements)
      if (finite(value)) fail(std::string(name) + " between the runs");
  }
};

}  // namespace hifigan
