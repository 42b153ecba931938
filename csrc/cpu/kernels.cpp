// Compiled once per instruction set, each time into a namespace of its own.
#include "kernels.h"

#include "conv.h"
#include "feature_l1.h"
#include "head.h"
#include "peak.h"
#include "stem.h"
#include "weight_grad.h"

#define HIFIGAN_STRING_(a) #a
#define HIFIGAN_STRING(a) HIFIGAN_STRING_(a)

namespace hifigan {
namespace HIFIGAN_ISA {

template <class T>
constexpr MapKernels<T> map_kernels() {
  return {conv_forward<T>,    conv_input_grad<T>,  conv_weight_grad<T>, bias_grad<T>,
          stem_forward<T>,    stem_input_grad<T>,  stem_weight_grad<T>, head_forward<T>,
          head_input_grad<T>, head_weight_grad<T>, feature_l1<T>,       feature_l1_grad<T>};
}

static const Kernels table = {
    HIFIGAN_STRING(HIFIGAN_ISA), kWidth, multiply_add_peak, row_norms, map_kernels<float>(),
    map_kernels<BFloat16>(),
};

}  // namespace HIFIGAN_ISA

const Kernels &HIFIGAN_JOIN(kernels_, HIFIGAN_ISA)() { return HIFIGAN_ISA::table; }

}  // namespace hifigan
