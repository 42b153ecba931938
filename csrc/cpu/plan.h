// How a convolution's products are cut into panels, and which kernels this machine can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace hifigan {

// A product that owns its panels.
struct Plan {
  std::vector<Panel> panels;
  Product product;
  int64_t floats() const { return product.groups * product.group_floats; }  // packed, of one set
};

// A stem's forward product differs in its window only: its weights are packed for `forward`.
enum class Pass { forward, stem_forward, input_grad, stem_input_grad };

Plan make_plan(const Conv &conv, Pass pass, int64_t width);

std::vector<const Kernels *> available_kernels();  // best first

}  // namespace hifigan
