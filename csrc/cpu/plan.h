// What is decided before a kernel runs: correlations, transforms, segments, and the instruction set.
#pragma once

#include <vector>

#include "kernels.h"

namespace hifigan {

Correlation forward_correlation(const Conv &conv);
Correlation input_grad_correlation(const Conv &conv);

// The pieces of a correlation, one a set of weights, that own their segments.
struct Plan {
  Correlation correlation;
  std::vector<Segment> segments;
  std::vector<Piece> pieces;
};

enum class Pass { forward, input_grad };  // a weight gradient is cut as its forward pass is

// `direct` forbids transforms: each output is then a sum over its own taps, as where a NaN is to stay
// where the reference has it.
Plan make_plan(const Conv &conv, Pass pass, const std::vector<Run> &runs, int64_t sets, int64_t width,
               bool direct = false);

std::vector<const Kernels *> available_kernels();  // best first

}  // namespace hifigan
