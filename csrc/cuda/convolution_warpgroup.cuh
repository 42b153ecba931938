// The product by Hopper's matrix units, which a warpgroup (four warps) asks together: `wgmma`, of sm_90a
// only. The left operand comes from registers, so that a window's rows are read wherever they are; the right
// one from shared memory, as a descriptor says. Both are read some time between the instruction and the wait
// for it.
#pragma once

#include "convolution_matrix.cuh"

// What was copied to shared memory by now is there for `wgmma`, which reads it by another way.
DEVICE void show_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Registers written by now are there for `wgmma`.
DEVICE void show_registers() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// What was asked for since the last call is one group.
DEVICE void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most the LEFT latest groups are on their way.
template <int LEFT>
DEVICE void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

#define SUMS4(d, j)                                                                                  \
  "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3]), "+f"(d[j + 1][0]), "+f"(d[j + 1][1]),  \
      "+f"(d[j + 1][2]), "+f"(d[j + 1][3]), "+f"(d[j + 2][0]), "+f"(d[j + 2][1]), "+f"(d[j + 2][2]), \
      "+f"(d[j + 2][3]), "+f"(d[j + 3][0]), "+f"(d[j + 3][1]), "+f"(d[j + 3][2]), "+f"(d[j + 3][3])

// d += a b: of each warp 16 rows, of all four 128 columns, two chunks deep. TURNED: columns lie side by side.
template <class T, bool TURNED>
DEVICE void multiply_group(float (&d)[16][4], const unsigned (&a)[4], unsigned long long b);

#define MULTIPLY_GROUP(T, type, turned)                                                                    \
  template <>                                                                                              \
  DEVICE void multiply_group<T, turned>(float (&d)[16][4], const unsigned (&a)[4], unsigned long long b) { \
    asm volatile(                                                                                          \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                                       \
        " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "     \
        "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "       \
        "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "       \
        "%56, %57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, 1, 1, 1, %69;"                \
        : SUMS4(d, 0), SUMS4(d, 4), SUMS4(d, 8), SUMS4(d, 12)                                              \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(turned)                                  \
        : "memory");                                                                                       \
  }

MULTIPLY_GROUP(Bfloat16, "bf16", 0)
MULTIPLY_GROUP(Bfloat16, "bf16", 1)
MULTIPLY_GROUP(Float16, "f16", 0)
MULTIPLY_GROUP(Float16, "f16", 1)
#undef MULTIPLY_GROUP
#undef SUMS4

// The most that `number` can be divided by, up to `most`.
constexpr int divisor(int number, int most) { return number % most ? divisor(number, most - 1) : most; }

// ROWS of each warp, its own of every 64 of the product; sums are where MatrixTile's are. Of a stage of
// weights of TAPS · CHUNKS, the left operands of the last IN_FLIGHT additions are kept, since that many may
// be on their way.
template <class T, int ROWS, int COLUMNS, int TAPS, int CHUNKS, int MOST = 5>
struct WarpgroupTile : MatrixTile<T, ROWS, COLUMNS, false, false> {
  using Base = MatrixTile<T, ROWS, COLUMNS, false, false>;
  using Base::DOWN, Base::ALONG, Base::sums, Base::lane;
  static constexpr int DEPTH = TAPS * CHUNKS, IN_FLIGHT = divisor(DEPTH / 2, MOST);
  static_assert(COLUMNS == 128 && CHUNKS % 2 == 0);

  unsigned a[IN_FLIGHT][DOWN][4];

  // The compiler moves no use of a sum to the other side.
  DEVICE void hold() {
#pragma unroll
    for (int i = 0; i < DOWN; ++i) {
#pragma unroll
      for (int j = 0; j < ALONG; ++j) {
#pragma unroll
        for (int n = 0; n < 4; ++n) asm volatile("" : "+f"(sums[i][j][n])::"memory");
      }
    }
  }

  template <class First>
  DEVICE void start(First first) {
    Base::start(first);
    hold();
  }

  DEVICE void wait() {
    wait_for_products<0>();
    hold();
  }

  // Two chunks from `first` on. The right operand is of one tap, others behind it; of the left one, rows of a
  // tap's chunks are aligned, so that those of the first are beside all others.
  template <bool TURNED, class Left, class Right>
  DEVICE void add_group(int first, Left left, Right right) {
    unsigned (&own)[DOWN][4] = a[first / 2 % IN_FLIGHT];
    const int tap = first / CHUNKS, chunk = first % CHUNKS;
    const unsigned above = left.at(tap * CHUNKS + lane() / 16);
    const unsigned long long below = right.described(chunk) + tap * COLUMNS * CHUNKS;
    wait_for_products<IN_FLIGHT - 1>();
#pragma unroll
    for (int i = 0; i < DOWN; ++i) load_matrices(own[i], above + left.shift(i) ^ 16 * chunk);
    show_registers();
#pragma unroll
    for (int i = 0; i < DOWN; ++i) multiply_group<T, TURNED>(sums[i], own[i], below);
    end_products();
  }

  template <class Left, class Right>
  DEVICE void add(int first, Left left, Right right) {
    add_group<false>(first, left, right);
  }

  template <class Left, class Right>
  DEVICE void add_right_turned(int first, Left left, Right right) {
    add_group<true>(first, left, right);
  }

  // Both turned, rows from `first` on: all of a stage's one after the other.
  template <class Left, class Right>
  DEVICE void add_both_turned(int first, Left left, Right right) {
    unsigned (&own)[DOWN][4] = a[first / 16 % IN_FLIGHT];
    const unsigned row = left.row(first + lane() / 16 * 8, lane() % 8);
    wait_for_products<IN_FLIGHT - 1>();
#pragma unroll
    for (int i = 0; i < DOWN; ++i)
      load_matrices<4, true>(own[i], row + left.at(lane() % 8, 2 * i + lane() / 8 % 2));
    show_registers();
#pragma unroll
    for (int i = 0; i < DOWN; ++i) multiply_group<T, true>(sums[i], own[i], right.described(first / 8));
    end_products();
  }

  // f(i, row, column, value) of all sums, of each warp's i-th 16 rows.
  template <class F>
  DEVICE void each_one(F f) {
    wait();
#pragma unroll
    for (int i = 0; i < DOWN; ++i) {
#pragma unroll
      for (int j = 0; j < ALONG; ++j) {
#pragma unroll
        for (int n = 0; n < 4; ++n)
          f(i, lane() / 4 + n / 2 * 8, 8 * j + lane() % 4 * 2 + n % 2, sums[i][j][n]);
      }
    }
  }

  template <int COUNT, class F>
  DEVICE void each(F f) {
    wait();
    Base::template each<COUNT>(f);
  }
};

// A stage is all there, or of a phase with fewer taps nothing: then none before it may be on its way either.
template <class T, int ROWS, int COLUMNS, int TAPS, int CHUNKS, int MOST, class AddTwo, class AddOne>
DEVICE void add_chunks(WarpgroupTile<T, ROWS, COLUMNS, TAPS, CHUNKS, MOST> &product, int depth,
                       AddTwo add_two, AddOne) {
  if (depth <= 0) return product.wait();
#pragma unroll
  for (int chunk = 0; chunk < TAPS * CHUNKS; chunk += 2) add_two(chunk);
}
