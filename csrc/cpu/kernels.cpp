// Compiled once per instruction set, each time into a namespace of its own.
#include "kernels.h"

#include "conv.h"
#include "feature_l1.h"
#include "head.h"
#include "pack.h"
#include "stem.h"
#include "weight_grad.h"

#define HIFIGAN_STRING_(a) #a
#define HIFIGAN_STRING(a) HIFIGAN_STRING_(a)

namespace hifigan {
namespace HIFIGAN_ISA {

static void conv_weight_grad(const Conv &conv, const Product &p, const Run *runs, int64_t run_count,
                             int64_t sets, const float *x, const float *grad_out, float *grad_weights,
                             int threads) {
  weight_grad(conv, p, runs, run_count, sets, grad_out, grad_weights, threads, 0,
              [&](const Run &run, int64_t sequence, float *) {
                return x + (run.in_offset + sequence * run.in_rows) * conv.in_channels;
              });
}

static const Kernels table = {
    HIFIGAN_STRING(HIFIGAN_ISA),
    kWidth,
    row_norms,
    pack_forward,
    pack_input_grad,
    unpack_grad,
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
