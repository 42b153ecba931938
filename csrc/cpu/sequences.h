// Work that goes sequence by sequence: stems and heads.
#pragma once

#include "simd.h"

namespace hifigan {
namespace HIFIGAN_ISA {

// Calls body(run, its index, sample, column) for every sequence.
template <class Body>
void for_sequences(const Run *runs, int64_t run_count, int threads, const Body &body) {
  int64_t tasks = 0;
  for (int64_t i = 0; i < run_count; ++i) tasks += runs[i].sequences();
  parallel_for(threads, tasks, [&](int64_t sequence) {
    int64_t index = 0;
    for (; sequence >= runs[index].sequences(); ++index) sequence -= runs[index].sequences();
    body(runs[index], index, sequence / runs[index].period, sequence % runs[index].period);
  });
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
