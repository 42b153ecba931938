// A tensor of scores: a row of `parts`.
#pragma once

#include "rows.cuh"
#include "specialised.cuh"

struct Part {
  const scores_t *own;
  long long count, grad;
  float target;
};

inline Part part_of(const Pointers<const scores_t, scores_n> &scores, const long long *parts, int number) {
  const long long *row = parts + PART_FIELDS * number;
  return {scores.of[number] + row[PART_LEAD], row[PART_COUNT], row[PART_GRAD],
          static_cast<float>(row[PART_TARGET])};
}
