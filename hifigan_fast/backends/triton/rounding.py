"""TF32 operands are rounded where they are made: matrix units cut off the bits that they do not take."""

import triton
import triton.language as tl


@triton.jit
def rounded(value, PRECISION: tl.constexpr):
    """float32 to the nearest of TF32 where products will be in it; anything else as it is."""
    if PRECISION == "tf32":
        return tl.inline_asm_elementwise("cvt.rna.tf32.f32 $0, $1;", "=r,r", [value], tl.float32, is_pure=True, pack=1)
    else:
        return value
