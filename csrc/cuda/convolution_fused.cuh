// The product by fused multiply-adds: see convolution_product.cuh.
#pragma once

#include "convolution_instructions.cuh"

// By fused multiply-adds of float32: lanes stand 8 down, 4 along. A chain of them would lose bits: `parts`
// are added up before they are added to the others.
template <int ROWS, int COLUMNS, bool LEFT_TURNED = false>
struct FusedTile {
  static constexpr int DOWN = ROWS / 8, ALONG = COLUMNS / 16, DEPTH = 1, UNROLLED = 1, AT_ONCE = 16;
  static_assert(ROWS % (LEFT_TURNED ? 32 : 8) == 0 && COLUMNS % 16 == 0);

  float sums[DOWN][ALONG][4], parts[DOWN][ALONG][4];
  struct Ones {
    float sums[DOWN], parts[DOWN];
  };

  static DEVICE int down() { return threadIdx.x % 8; }
  static DEVICE int along() { return threadIdx.x / 8 % 4; }

  static constexpr int OWN_ROWS = DOWN;
  static DEVICE int own_row(int i) { return LEFT_TURNED ? i / 4 * 32 + 4 * down() + i % 4 : 8 * i + down(); }
  static DEVICE int own_column(int j) { return 16 * j + 4 * along(); }

  template <class First>
  DEVICE void start(First first) {
#pragma unroll
    for (int j = 0; j < ALONG; ++j) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float value = first(own_column(j) + n);
#pragma unroll
        for (int i = 0; i < DOWN; ++i) sums[i][j][n] = value, parts[i][j][n] = 0.0f;
      }
    }
  }

  DEVICE void settle() {
#pragma unroll
    for (int i = 0; i < DOWN; ++i) {
#pragma unroll
      for (int j = 0; j < ALONG; ++j) {
#pragma unroll
        for (int n = 0; n < 4; ++n) sums[i][j][n] += parts[i][j][n], parts[i][j][n] = 0.0f;
      }
    }
  }

  static DEVICE void settle(Ones &ones) {
#pragma unroll
    for (int i = 0; i < DOWN; ++i) ones.sums[i] += ones.parts[i], ones.parts[i] = 0.0f;
  }

  static DEVICE float number(const Chunk &chunk, int n) { return __uint_as_float(word_of(chunk, n)); }

  template <class Left, class Right>
  DEVICE void add(int first, Left left, Right right) {
    add_chunk(first, left, right);
    add_chunk(first + 1, left, right);
  }

  // Half a chunk at a time: a whole one of every row would take too many registers.
  template <class Left, class Right>
  DEVICE void add_chunk(int chunk, Left left, Right right) {
#pragma unroll
    for (int half = 0; half < 16; half += 8) {
      float2 a[DOWN];
      const unsigned above = left.at(chunk) + half;
#pragma unroll
      for (int i = 0; i < DOWN; ++i) a[i] = load_floats(above + left.shift(i));
#pragma unroll
      for (int c = 0; c < 4 * ALONG; ++c) {
        const float2 b = load_floats(right.row(c / 4 * 16 + along() / 2 * 8, along() % 2 * 4 + c % 4) +
                                     right.at(along() % 2 * 4 + c % 4, chunk) + half);
#pragma unroll
        for (int i = 0; i < DOWN; ++i) {
          float &to = parts[i][c / 4][c % 4];
          to = fmaf(a[i].y, b.y, fmaf(a[i].x, b.x, to));
        }
      }
    }
  }

  template <class Left, class Right>
  DEVICE void add_right_turned(int first, Left left, Right right) {
    add_chunk_right_turned(first, left, right);
    add_chunk_right_turned(first + 1, left, right);
  }

  template <class Left, class Right>
  DEVICE void add_chunk_right_turned(int chunk, Left left, Right right) {
#pragma unroll
    for (int half = 0; half < 4; half += 2) {
      float2 a[DOWN];
      const unsigned above = left.at(chunk) + 4 * half;
#pragma unroll
      for (int i = 0; i < DOWN; ++i) a[i] = load_floats(above + left.shift(i));
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int row = 4 * chunk + half + k;
#pragma unroll
        for (int j = 0; j < ALONG; ++j) {
          const Chunk b = load_chunk(right.row(row / 8 * 8, row % 8) + right.at(row % 8, 4 * j + along()));
#pragma unroll
          for (int i = 0; i < DOWN; ++i) add_products(parts[i][j], k ? a[i].y : a[i].x, b);
        }
      }
    }
  }

  static DEVICE void add_products(float (&to)[4], float a, const Chunk &b) {
#pragma unroll
    for (int n = 0; n < 4; ++n) to[n] = fmaf(a, number(b, n), to[n]);
  }

  template <class Left, class Right>
  DEVICE void add_both_turned(int k, Left left, Right right) {
    Chunk a[DOWN / 4];
#pragma unroll
    for (int i = 0; i < DOWN / 4; ++i)
      a[i] = load_chunk(left.row(k / 8 * 8, k % 8) + left.at(k % 8, 8 * i + down()));
    const unsigned row = right.row(k / 8 * 8, k % 8);
#pragma unroll
    for (int j = 0; j < ALONG; ++j) {
      const Chunk b = load_chunk(row + right.at(k % 8, 4 * j + along()));
#pragma unroll
      for (int i = 0; i < DOWN; ++i) add_products(parts[i][j], number(a[i / 4], i % 4), b);
    }
  }

  template <class Left>
  static DEVICE void add_left_turned(int k, Left left, Ones &ones) {
#pragma unroll
    for (int i = 0; i < DOWN / 4; ++i) {
      const Chunk a = load_chunk(left.row(k / 8 * 8, k % 8) + left.at(k % 8, 8 * i + down()));
#pragma unroll
      for (int n = 0; n < 4; ++n) ones.parts[4 * i + n] += number(a, n);
    }
  }

  template <class F>
  static DEVICE void each_sum(const Ones &ones, F f) {
    if (along()) return;
#pragma unroll
    for (int i = 0; i < DOWN; ++i) f(own_row(i), ones.sums[i]);
  }

  template <int COUNT, class F>
  DEVICE void each(F f) {
    static_assert(COUNT == 4);
#pragma unroll
    for (int i = 0; i < DOWN; ++i) {
#pragma unroll
      for (int j = 0; j < ALONG; ++j) f(own_row(i), own_column(j), sums[i][j]);
    }
  }
};
