"""TF32 operands are rounded where a product reads them, weights where they are packed: matrix units cut off the bits
that they do not take."""

import triton
import triton.language as tl
from triton.language.target_info import cuda_capability_geq


@triton.jit
def rounded(value, PRECISION: tl.constexpr):
    """float32 to the nearest of TF32 where products will be in it; anything else as it is."""
    if PRECISION == "tf32":
        # To even is one instruction, which came with Hopper; away from zero is three.
        ROUND: tl.constexpr = "cvt.rn.tf32.f32 $0, $1;" if cuda_capability_geq(9, 0) else "cvt.rna.tf32.f32 $0, $1;"
        return tl.inline_asm_elementwise(ROUND, "=r,r", [value], tl.float32, is_pure=True, pack=1)
    else:
        return value
