// What a tile of a stem reads of the waveforms, in shared memory.
#pragma once

#include "rows.cuh"
#include "specialised.cuh"

// The samples of ROWS output rows of one run, each looked up once: a row's taps have slots side by side. Rows
// of a sequence begin STEP slots apart, and share what lies between; sequences share none.
template <class T, int ROWS, int REACH = TAPS>  // REACH: slots that are read from a row's first on
struct Window {
  static constexpr int STEP = STRIDE < TAPS ? STRIDE : TAPS, APART = TAPS - STEP;
  static constexpr int EACH = ceil_div((ROWS - 1) * STEP + REACH, THREADS), AT_ONCE = EACH < 4 ? EACH : 4;
  static_assert(ROWS % THREADS == 0);

  alignas(8) int places[ROWS];  // of each row's first tap
  T slots[(ROWS - 1) * TAPS + REACH];

  // Of the rows from `begin` on, counted through the run's sequences; those behind the last read zeros.
  inline void fill(const x_t *x, const long long *run, unsigned begin) {
    const unsigned rows = run[RUN_OUT_ROWS], period = run[RUN_PERIOD], row = begin % rows,
                   sequence = begin / rows;
    const int length = run[RUN_IN_ROWS], samples = run[RUN_SAMPLES], folded = ceil_div(length, period);
    const int slots_of_one = rows * STEP + APART,
              end = (ROWS - 1) * STEP + (row + ROWS - 1) / rows * APART + REACH;
    x += run[RUN_IN_OFFSET];
#pragma unroll
    for (int first = 0; first < ROWS; first += THREADS) {
      const int i = first + threadIdx.x;
      places[i] = i * STEP + (row + i) / rows * APART;
    }
    int sample = sequence / period, column = sequence % period, at = row * STEP + threadIdx.x;
    for (int first = threadIdx.x; first < end; first += THREADS * AT_ONCE) {
      float found[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i, at += THREADS) {
        for (; at >= slots_of_one; at -= slots_of_one)
          if (++column == period) column = 0, ++sample;
        const int place = at / STEP * STRIDE - PADDING + at % STEP;  // in the fold
        const int straight = place * period + column;
        const bool inside = place >= 0 && place < folded && sample < samples && first + i * THREADS < end;
        const int mirrored = straight < length ? straight : 2 * (length - 1) - straight;
        found[i] = inside ? wide(x[static_cast<long long>(sample) * length + mirrored]) : 0;
      }
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i)
        if (first + i * THREADS < end) slots[first + i * THREADS] = narrow<T>(found[i]);
    }
  }
};
