// A warp's part of a matrix product out of shared memory: ROWS × COLUMNS float32 sums in its registers.
//
// An operand's `row(eights, own)` + `at(own, chunk)` is the address in shared memory of 16 bytes of its row
// eights + own, where `eights` is a multiple of 8. A plain one has the sum's dimension along its chunks, a
// turned one along its rows. Matrix units take two chunks at a time, or as many rows; fused multiply-adds
// one. Of a plain left operand each lane knows its own rows: `at(chunk)` is of the first, the i-th is
// `shift(i)` further.
#pragma once

#include "convolution_instructions.cuh"

template <class T>
constexpr int CHUNK = 16 / sizeof(T);  // elements

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
  static_assert(ROWS % 16 == 0 && COLUMNS % 8 == 0 && (ALONG == 1 || ALONG % 2 == 0));

  static constexpr int UNROLLED = 4;  // additions

  float sums[DOWN][ALONG][4];
  using Ones = float[DOWN][4];  // of `add_left_turned`

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
  static DEVICE void settle(Ones &) {}

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

  // Each column of `ones` becomes the sums of the left operand.
  template <class Left>
  static DEVICE void add_left_turned(int k, Left left, Ones &ones) {
    unsigned a[DOWN][4];
    load_left_turned(a, k, left);
    const unsigned one[2] = {one_of(), one_of()};
#pragma unroll
    for (int i = 0; i < DOWN; ++i) multiply<T>(ones[i], a[i], one);
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

  static DEVICE unsigned one_of() {
    if constexpr (WORDS) {
      return __float_as_uint(1.0f);
    } else {
      return pair<T>(1.0f, 1.0f);
    }
  }

  // A column of `ones` is its sums: f(row, sum).
  template <class F>
  static DEVICE void each_sum(const Ones &ones, F f) {
    if (lane() % 4) return;
#pragma unroll
    for (int i = 0; i < DOWN; ++i) {
      f(16 * i + lane() / 4, ones[i][0]);
      f(16 * i + lane() / 4 + 8, ones[i][2]);
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

// By fused multiply-adds of float32: lanes stand 8 down, 4 along. A chain of them would lose bits: `parts`
// are added up before they are added to the others.
template <int ROWS, int COLUMNS, bool LEFT_TURNED = false>
struct FusedTile {
  static constexpr int DOWN = ROWS / 8, ALONG = COLUMNS / 16, DEPTH = 1, UNROLLED = 1;
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

template <class Kind, int ROWS, int COLUMNS, bool LEFT_TURNED, bool ROUND_LEFT, bool ROUND_RIGHT>
struct TileOf {
  using Type = MatrixTile<typename Kind::Stored, ROWS, COLUMNS, ROUND_LEFT && Kind::IN_TF32,
                          ROUND_RIGHT && Kind::IN_TF32>;
};

template <int ROWS, int COLUMNS, bool LEFT_TURNED, bool ROUND_LEFT, bool ROUND_RIGHT>
struct TileOf<Kind<float, false>, ROWS, COLUMNS, LEFT_TURNED, ROUND_LEFT, ROUND_RIGHT> {
  using Type = FusedTile<ROWS, COLUMNS, LEFT_TURNED>;
};
