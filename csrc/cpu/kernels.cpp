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

static const Kernels table = {
    HIFIGAN_STRING(HIFIGAN_ISA),
    kWidth,
    multiply_add_peak,
    row_norms,
    conv_forward,
    conv_input_grad,
    conv_weight_grad,
    bias_grad,
    stem_forward,
    stem_input_grad,
    stem_weight_grad,
    head_forward,
    head_input_grad,
    head_weight_grad,
    feature_l1,
    feature_l1_grad,
};

}  // namespace HIFIGAN_ISA

const Kernels &HIFIGAN_JOIN(kernels_, HIFIGAN_ISA)() { return HIFIGAN_ISA::table; }

}  // namespace hifigan
