// Where the rows of tables lead: a row of `runs` is a geometry.Run.
#pragma once

#include "elements.cuh"
#include "fields.cuh"

struct Place {  // an output row of a run
  int sequence, row;
  bool live;
};

// Rows are counted through the sequences of a run.
inline int rows_of(const long long *run) { return run[RUN_SAMPLES] * run[RUN_PERIOD] * run[RUN_OUT_ROWS]; }

inline Place place_of(const long long *run, int number) {
  const int rows = run[RUN_OUT_ROWS];
  return {number / rows, number % rows, number < rows_of(run)};
}

// The number of a head's row; they are H-major.
inline long long head_row(const long long *run, int sequence, int row) {
  const int period = run[RUN_PERIOD];
  return (sequence / period * run[RUN_OUT_ROWS] + row) * period + sequence % period;
}

// Where the output of a place lies, in rows behind the run's offset.
inline long long output_row(const long long *run, Place place, bool head) {
  return head ? head_row(run, place.sequence, place.row) : place.sequence * run[RUN_OUT_ROWS] + place.row;
}

// Where position `place` of a fold lies in the waveforms, behind the run's offset; -1 outside. The end is a
// mirror.
inline long long folded(const long long *run, int sequence, int place) {
  const int length = run[RUN_IN_ROWS], period = run[RUN_PERIOD];
  if (place < 0 || place >= ceil_div(length, period)) return -1;
  const int at = place * period + sequence % period;
  return static_cast<long long>(sequence / period) * length + (at < length ? at : 2 * (length - 1) - at);
}
