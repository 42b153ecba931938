// The product by the matrix units: see convolution_product.cuh.
#pragma once

#include "convolution_instructions.cuh"

// Lanes `bit` apart exchange: the one gives what is high for what is low of the other.
DEVICE void exchange(float2 &low, float2 &high, int bit) {
  const bool upper = threadIdx.x & bit;
  const float2 given = upper ? low : high;
  const float2 taken = {__shfl_xor_sync(0xFFFFFFFF, given.x, bit), __shfl_xor_sync(0xFFFFFFFF, given.y, bit)};
  (upper ? low : high) = taken;
}

// By the matrix units. ROUND_LEFT, ROUND_RIGHT: that operand is float32 which is not yet rounded to TF32.
template <class T, int ROWS, int COLUMNS, bool ROUND_LEFT, bool ROUND_RIGHT>
struct MatrixTile {
  static constexpr int DOWN = ROWS / 16, ALONG = COLUMNS / 8;
  static constexpr int DEPTH = 2 * CHUNK<T>;  // elements of the sum's dimension that one instruction takes
  static constexpr bool WORDS = sizeof(T) == 4;
  static_assert(ROWS % 16 == 0 && COLUMNS % 8 == 0 && (ALONG == 1 || ALONG % 2 == 0 || WORDS));

  static constexpr int UNROLLED = 4, AT_ONCE = 1 << 20;  // additions; chunks between two calls of `settle`

  float sums[DOWN][ALONG][4];
  // Of `add_left_turned`; of words what each lane has summed up, of two rows, since the last call of `settle`
  // and before.
  using Ones = float[DOWN][4];

  static DEVICE int lane() { return threadIdx.x % 32; }

  // This lane's i-th row of a plain left operand: the one whose address it gives.
  static constexpr int OWN_ROWS = DOWN;
  static DEVICE int own_row(int i) { return 16 * i + lane() % 16; }

  // All sums of a column become first(column).
  template <class First>
  DEVICE void start(First first) {
#pragma unroll
    for (int j = 0; j < ALONG; ++j) {
      const float left = first(8 * j + lane() % 4 * 2), right = first(8 * j + lane() % 4 * 2 + 1);
#pragma unroll
      for (int i = 0; i < DOWN; ++i) {
        sums[i][j][0] = sums[i][j][2] = left;
        sums[i][j][1] = sums[i][j][3] = right;
      }
    }
  }

  // Called now and then between additions.
  DEVICE void settle() {}
  static DEVICE void settle(Ones &ones) {
    if constexpr (WORDS) {
#pragma unroll
      for (int i = 0; i < DOWN; ++i) {
#pragma unroll
        for (int n = 0; n < 2; ++n) ones[i][n + 2] += ones[i][n], ones[i][n] = 0.0f;
      }
    }
  }

  template <int COUNT>
  static DEVICE void round(unsigned (&words)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) words[i] = __float_as_uint(to_tf32(__uint_as_float(words[i])));
  }

  // Both plain, rows of the right one columns of the sums: chunks `first` and the next.
  template <class Left, class Right>
  DEVICE void add(int first, Left left, Right right) {
    unsigned a[DOWN][4], b[ALONG][2];
    const unsigned above = left.at(first + lane() / 16);
#pragma unroll
    for (int i = 0; i < DOWN; ++i) load_matrices(a[i], above + left.shift(i));
    if constexpr (ALONG == 1) {
      load_matrices(b[0], right.row(0, lane() % 8) + right.at(lane() % 8, first + lane() / 8 % 2));
    } else {
#pragma unroll
      for (int j = 0; j < ALONG; j += 2) {
        unsigned both[4];
        load_matrices(both, right.row(8 * j + lane() / 16 * 8, lane() % 8) +
                                right.at(lane() % 8, first + lane() / 8 % 2));
        b[j][0] = both[0], b[j][1] = both[1], b[j + 1][0] = both[2], b[j + 1][1] = both[3];
      }
    }
    multiply_all(a, b);
  }

  // The same of one chunk.
  template <class Left, class Right>
  DEVICE void add_chunk(int chunk, Left left, Right right) {
    unsigned a[DOWN][2], b[ALONG];
    const unsigned above = left.at(chunk);
#pragma unroll
    for (int i = 0; i < DOWN; ++i) load_matrices(a[i], above + left.shift(i));
    if constexpr (ALONG == 1) {
      load_matrices(b, right.row(0, lane() % 8) + right.at(lane() % 8, chunk));
    } else {
#pragma unroll
      for (int j = 0; j < ALONG; j += 2) {
        unsigned both[2];
        load_matrices(both, right.row(8 * j + lane() / 8 % 2 * 8, lane() % 8) + right.at(lane() % 8, chunk));
        b[j] = both[0], b[j + 1] = both[1];
      }
    }
    multiply_chunks(a, b);
  }

  // The right operand turned: row k of its has chunks of columns.
  template <class Left, class Right>
  DEVICE void add_right_turned(int first, Left left, Right right) {
    unsigned a[DOWN][4], b[ALONG][2];
    const unsigned above = left.at(first + lane() / 16);
#pragma unroll
    for (int i = 0; i < DOWN; ++i) load_matrices(a[i], above + left.shift(i));
    load_turned(b, first * CHUNK<T>, right);
    multiply_all(a, b);
  }

  template <class Left, class Right>
  DEVICE void add_chunk_right_turned(int chunk, Left left, Right right) {
    unsigned a[DOWN][2], b[ALONG];
    const unsigned above = left.at(chunk);
#pragma unroll
    for (int i = 0; i < DOWN; ++i) load_matrices(a[i], above + left.shift(i));
    const int k = chunk * CHUNK<T>;
    if constexpr (WORDS) {
#pragma unroll
      for (int j = 0; j < ALONG; ++j)
        b[j] = load_word(right.row(k / 8 * 8, k % 8 + lane() % 4) + of_word(right, k % 8, j));
    } else if constexpr (ALONG == 1) {
      load_matrices<1, true>(b, right.row(k, lane() % 8) + right.at(lane() % 8, 0));
    } else {
#pragma unroll
      for (int j = 0; j < ALONG; j += 2) {
        unsigned both[2];
        load_matrices<2, true>(both, right.row(k, lane() % 8) + right.at(lane() % 8, j + lane() / 8 % 2));
        b[j] = both[0], b[j + 1] = both[1];
      }
    }
    multiply_chunks(a, b);
  }

  // Both turned: `DEPTH` rows from k on.
  template <class Left, class Right>
  DEVICE void add_both_turned(int k, Left left, Right right) {
    unsigned a[DOWN][4], b[ALONG][2];
    load_left_turned(a, k, left);
    load_turned(b, k, right);
    multiply_all(a, b);
  }

  // Each column of `ones` becomes the sums of the left operand. Words are not multiplied by one: they would
  // be rounded.
  template <class Left>
  static DEVICE void add_left_turned(int k, Left left, Ones &ones) {
    unsigned a[DOWN][4];
    load_left_turned(a, k, left);
#pragma unroll
    for (int i = 0; i < DOWN; ++i) {
      if constexpr (WORDS) {
#pragma unroll
        for (int n = 0; n < 4; ++n) ones[i][n % 2] += __uint_as_float(a[i][n]);
      } else {
        const unsigned one[2] = {pair<T>(1.0f, 1.0f), pair<T>(1.0f, 1.0f)};
        multiply<T>(ones[i], a[i], one);
      }
    }
  }

  template <class Left>
  static DEVICE void load_left_turned(unsigned (&a)[DOWN][4], int k, Left left) {
#pragma unroll
    for (int i = 0; i < DOWN; ++i) {
      if constexpr (WORDS) {
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const int first = n / 2 * 4;
          a[i][n] = load_word(left.row(k, first + lane() % 4) + of_word(left, first, 2 * i + n % 2));
        }
      } else {
        load_matrices<4, true>(
            a[i], left.row(k + lane() / 16 * 8, lane() % 8) + left.at(lane() % 8, 2 * i + lane() / 8 % 2));
      }
    }
  }

  // A column of `ones` is its sums, or of words the sum of four lanes: f(row, sum).
  template <class F>
  static DEVICE void each_sum(const Ones &ones, F f) {
#pragma unroll
    for (int i = 0; i < DOWN; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = ones[i][WORDS ? 2 + half : 2 * half];
        if constexpr (WORDS) {
          sum += __shfl_xor_sync(0xFFFFFFFF, sum, 1);
          sum += __shfl_xor_sync(0xFFFFFFFF, sum, 2);
        }
        if (lane() % 4 == 0) f(16 * i + 8 * half + lane() / 4, sum);
      }
    }
  }

  // Of a turned operand of words, where this lane's is, behind the row's: of four rows from the `first` of
  // eight on and eight columns.
  template <class Operand>
  static DEVICE unsigned of_word(const Operand &operand, int first, int eight) {
    return operand.at(first + lane() % 4, 2 * eight + lane() / 16) + lane() / 4 % 4 * 4;
  }

  template <class Right>
  static DEVICE void load_turned(unsigned (&b)[ALONG][2], int k, Right right) {
    if constexpr (WORDS) {
      const unsigned above = right.row(k, lane() % 4), below = right.row(k, 4 + lane() % 4);
#pragma unroll
      for (int j = 0; j < ALONG; ++j) {
        b[j][0] = load_word(above + of_word(right, 0, j)), b[j][1] = load_word(below + of_word(right, 4, j));
      }
      return;
    }
    const unsigned row = right.row(k + lane() / 8 % 2 * 8, lane() % 8);
    if constexpr (ALONG == 1) {
      load_matrices<2, true>(b[0], row + right.at(lane() % 8, 0));
    } else if constexpr (!WORDS) {
#pragma unroll
      for (int j = 0; j < ALONG; j += 2) {
        unsigned both[4];
        load_matrices<4, true>(both, row + right.at(lane() % 8, j + lane() / 16));
        b[j][0] = both[0], b[j][1] = both[1], b[j + 1][0] = both[2], b[j + 1][1] = both[3];
      }
    }
  }

  DEVICE void multiply_all(unsigned (&a)[DOWN][4], unsigned (&b)[ALONG][2]) {
    if constexpr (ROUND_LEFT) {
#pragma unroll
      for (int i = 0; i < DOWN; ++i) round(a[i]);
    }
    if constexpr (ROUND_RIGHT) {
#pragma unroll
      for (int j = 0; j < ALONG; ++j) round(b[j]);
    }
#pragma unroll
    for (int i = 0; i < DOWN; ++i) {
#pragma unroll
      for (int j = 0; j < ALONG; ++j) multiply<T>(sums[i][j], a[i], b[j]);
    }
  }

  DEVICE void multiply_chunks(unsigned (&a)[DOWN][2], unsigned (&b)[ALONG]) {
    if constexpr (ROUND_LEFT) {
#pragma unroll
      for (int i = 0; i < DOWN; ++i) round(a[i]);
    }
#pragma unroll
    for (int i = 0; i < DOWN; ++i) {
#pragma unroll
      for (int j = 0; j < ALONG; ++j) multiply_chunk<T>(sums[i][j], a[i][0], a[i][1], b[j]);
    }
  }

  // f(row, first column, values): COUNT neighbours of each row, 16 bytes of what is stored; every sum once.
  // The lanes of four have two columns each: they exchange until each has a whole chunk.
  template <int COUNT, class F>
  DEVICE void each(F f) {
    constexpr int AT_ONCE = COUNT / 2, ITEMS = DOWN * 2 * ALONG;  // item: the eight columns of a row
    static_assert(ITEMS % AT_ONCE == 0);
    const int quad = lane() % 4, own = quad % AT_ONCE;
#pragma unroll
    for (int begin = 0; begin < ITEMS; begin += AT_ONCE) {
      float2 pairs[AT_ONCE];
#pragma unroll
      for (int n = 0; n < AT_ONCE; ++n) {
        const int item = begin + n, i = item / (2 * ALONG), j = item % ALONG, half = item / ALONG % 2;
        pairs[n] = {sums[i][j][2 * half], sums[i][j][2 * half + 1]};
      }
#pragma unroll
      for (int n = 0; n < AT_ONCE; n += 2) exchange(pairs[n], pairs[n + 1], 1);
      if constexpr (AT_ONCE == 4) {
        exchange(pairs[0], pairs[2], 2);
        exchange(pairs[1], pairs[3], 2);
      }
      const int item = begin + own, row = item / (2 * ALONG) * 16 + item / ALONG % 2 * 8 + lane() / 4;
      const int column = item % ALONG * 8 + (AT_ONCE == 2 ? quad / 2 * 4 : 0);
      float values[COUNT];
#pragma unroll
      for (int n = 0; n < COUNT; n += 2) {
        values[n] = pairs[n / 2].x, values[n + 1] = pairs[n / 2].y;
      }
      f(row, column, values);
    }
  }
};
