#include "plan.h"

#include <algorithm>

namespace hifigan {
namespace {

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }
int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }

}  // namespace

Plan make_plan(const Conv &conv, Pass pass, int64_t width) {
  Plan plan;
  Product &p = plan.product;
  int64_t columns;
  switch (pass) {
    case Pass::forward:
    case Pass::stem_forward:
      p = {conv.in_channels, conv.in_group(), conv.stride, conv.groups};
      columns = conv.out_group();
      break;
    case Pass::input_grad:
      p = {conv.out_channels, conv.out_group(), 1, conv.groups};
      columns = conv.stride * conv.in_group();
      break;
    default:  // one column a tap
      p = {conv.out_channels, conv.out_channels, 1, 1};
      columns = conv.taps;
  }
  int64_t floats = 0;
  for (int64_t first = 0; first < columns; first += 2 * width) {
    Panel panel{floats, first, std::min(2 * width, columns - first), 0, 1};
    if (pass == Pass::forward || pass == Pass::stem_forward) {
      // A stem's line begins with its padding; elsewhere the window may begin before the first row.
      panel.first = pass == Pass::stem_forward ? 0 : -conv.padding;
      panel.taps = conv.taps;
    } else if (pass == Pass::input_grad) {
      // The window rows that reach any phase of the panel: tap = phase + padding - stride * d.
      const int64_t low_phase = first / conv.in_group();
      const int64_t high_phase = (first + panel.columns - 1) / conv.in_group();
      panel.first = ceil_div(low_phase + conv.padding - conv.taps + 1, conv.stride);
      const int64_t last = floor_div(high_phase + conv.padding, conv.stride);
      panel.taps = std::max<int64_t>(0, last - panel.first + 1);
    }
    const int64_t packed_width = panel.columns > width ? 2 * width : width;
    floats += panel.taps * p.group_channels * packed_width;
    plan.panels.push_back(panel);
  }
  p.panels = plan.panels.data();
  p.panel_count = static_cast<int64_t>(plan.panels.size());
  p.group_floats = floats;
  return plan;
}

std::vector<const Kernels *> available_kernels() {
  std::vector<const Kernels *> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    found.push_back(&kernels_avx512());
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kernels_avx2());
#endif
  found.push_back(&kernels_portable());
  return found;
}

}  // namespace hifigan
