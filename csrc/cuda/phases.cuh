// An input gradient's rows by phases: input rows i with (i + PADDING) % STRIDE = phase meet taps phase, phase
// + STRIDE, …
#pragma once

#include "rows.cuh"
#include "specialised.cuh"

struct Phase {
  int phase, first, rows,
      shift;  // the first row, how many a sequence has, which output row the first tap leads to

  static Phase of(const long long *run, int phase) {
    const int first = (phase + STRIDE * PADDING - PADDING) % STRIDE;
    return {phase, first, ceil_div(static_cast<int>(run[RUN_IN_ROWS]) - first, STRIDE),
            (first + PADDING - phase) / STRIDE};
  }

  // The sequence of a row, and its number among the phase's rows of that.
  Place place(const long long *run, int number) const {
    return {number / rows, number % rows,
            number < static_cast<int>(run[RUN_SAMPLES] * run[RUN_PERIOD]) * rows};
  }

  // Which row of the run's inputs it is.
  long long input(const long long *run, Place own) const {
    return own.sequence * run[RUN_IN_ROWS] + first + own.row * STRIDE;
  }
};

// (sum + map gradient) · leaky'(saved), one element: `map` is the caller's gradient of the map, or its
// counterpart of the other side, whose gradient is scale · sign(saved - map).
inline float masked(float sum, float saved, bool has_map, float map, const float *scale, float slope) {
  if (has_map && scale) sum += saved > map ? *scale : saved < map ? -*scale : saved - map;  // 0 or NaN
  if (has_map && !scale) sum += map;
  return saved > 0 ? sum : sum * slope;
}
