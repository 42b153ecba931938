// What the bindings call: a table of functions for each instruction set in the binary.
#pragma once

#include "shapes.h"

namespace hifigan {

constexpr int64_t kL1Chunk = 4096;  // values of a pair of maps that one partial sum covers

// The kernels for maps of one element type. Waveforms, parameters and their gradients are always float.
template <class T>
struct MapKernels {
  // False if a result is not finite (correlation.h).
  bool (*conv_forward)(const Conv &, const Correlation &, const Piece *, int64_t piece_count, const Run *,
                       const T *x, const Filters *, const float *bias, T *out, int threads);
  bool (*conv_input_grad)(const Conv &, float slope, const Correlation &, const Piece *, int64_t piece_count,
                          const Run *, const T *grad_out, const Filters *, const T *saved, const MapGrad<T> *,
                          T *grad_in, int threads);
  void (*conv_weight_grad)(const Conv &, const Correlation &, const Piece *, int64_t piece_count, const Run *,
                           const T *x, const T *grad_out, const Filters *, const FilterGrads *, int threads);
  void (*bias_grad)(const Conv &, const Run *, int64_t run_count, int64_t sets, const T *grad_out,
                    float *grad_bias, int threads);

  void (*stem_forward)(const Conv &, const Run *, int64_t run_count, const float *waves, const Filters *,
                       int64_t sets, const float *bias, T *out, int threads);
  void (*stem_input_grad)(const Conv &, const Run *, int64_t run_count, const T *grad_out, const Filters *,
                          int64_t sets, float *grad_waves, int threads);
  void (*stem_weight_grad)(const Conv &, const Run *, int64_t run_count, int64_t sets, const float *waves,
                           const T *grad_out, const Filters *, const FilterGrads *, int threads);

  void (*head_forward)(const Conv &, const Run *, int64_t run_count, const T *x, const Filters *,
                       int64_t sets, const float *bias, T *out, int threads);
  void (*head_input_grad)(const Conv &, float slope, const Run *, int64_t run_count, const T *grad_out,
                          const Filters *, int64_t sets, const T *saved, const MapGrad<T> *, T *grad_in,
                          int threads);
  void (*head_weight_grad)(const Conv &, const Run *, int64_t run_count, int64_t sets, const T *x,
                           const T *grad_out, const Filters *, const FilterGrads *, int threads);

  void (*feature_l1)(const MapPair<T> *, int64_t pair_count, double *partial, float *means, int threads);
  void (*feature_l1_grad)(const MapPair<T> *, int64_t pair_count, const float *grads, int threads);
};

struct Kernels {
  const char *name;
  int64_t width;  // floats in a vector; panels are one or two wide

  // Multiplies and adds in registers, `rounds` times on each thread: what the machine can do at most.
  // Returns how many floating-point operations that were.
  double (*multiply_add_peak)(int64_t rounds, int threads);
  void (*row_norms)(const float *raw, int64_t rows, int64_t size, float *norms, int threads);

  MapKernels<float> float32;
  MapKernels<BFloat16> bfloat16;

  template <class T>
  const MapKernels<T> &of() const {
    if constexpr (sizeof(T) == sizeof(BFloat16))
      return bfloat16;
    else
      return float32;
  }
};

#define HIFIGAN_JOIN_(a, b) a##b
#define HIFIGAN_JOIN(a, b) HIFIGAN_JOIN_(a, b)

const Kernels &kernels_portable();
const Kernels &kernels_avx2();
const Kernels &kernels_avx512();
const Kernels &kernels_avx512bf16();

}  // namespace hifigan
