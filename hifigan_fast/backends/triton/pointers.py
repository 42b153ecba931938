"""One of several pointers, chosen by a number that only the device knows.

Triton compiles a kernel anew for every combination of pointers of which some are aligned and others not. So all are
(`gpu.pointers`).
"""

import triton
import triton.language as tl
from triton.language.target_info import cuda_capability_geq

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
LINE = tl.constexpr(32)  # float32 of a cache's line


@triton.jit
def pick(pointers, index):
    """pointers[index] of a tuple of pointers of one type."""
    picked = pointers[0]
    for i in tl.static_range(1, len(pointers)):
        picked = tl.where(index == i, pointers[i], picked)
    return picked


@triton.jit
def ask_for(rows, size, LINES: tl.constexpr):
    """Have the second cache fetch the first lines of rows of so many float32, which no register waits for.

    From Ada Lovelace on: caches of most before it do not hold the rows of all programs.
    """
    if not INTERPRETED and cuda_capability_geq(8, 9):
        at = rows[:, None] + tl.minimum(tl.arange(0, LINES) * LINE, size - 1)[None, :]
        ASK: tl.constexpr = "prefetch.global.L2 [$1]; mov.b32 $0, 0;"
        tl.inline_asm_elementwise(ASK, "=r,l", [at.to(tl.int64)], tl.int32, is_pure=False, pack=1)
