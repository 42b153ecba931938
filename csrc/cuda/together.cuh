// Programs of one grid that wait for one another, or learn which of them is the last, by counters that are 0
// before and after each launch.
#pragma once

inline int add_in_order(int *counter, int number) {
  int before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(counter), "r"(number)
               : "memory");
  return before;
}

// Whether this is the last of so many programs to come here: then it sees what all have written before.
inline bool last(int *counter, int programs) {
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = add_in_order(counter, 1) == programs - 1;
    if (is_last) *counter = 0;
  }
  __syncthreads();
  return is_last;
}

// All programs of a grid of one axis wait here for one another, and see what all have written before. All
// must run at once: a cooperative launch.
inline void meet(int *counters) {
  __syncthreads();
  if (threadIdx.x == 0) {
    const int meetings = add_in_order(counters, 0);  // before this one is counted: the next cannot have begun
    if (add_in_order(counters + 1, 1) == static_cast<int>(gridDim.x) - 1) {
      counters[1] = 0;
      add_in_order(counters, 1);
    } else {
      while (add_in_order(counters, 0) == meetings) {
      }
    }
  }
  __syncthreads();
}
