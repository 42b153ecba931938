"""One of several pointers, chosen by a number that only the device knows.

Triton compiles a kernel anew for every combination of pointers of which some are aligned and others not. So all are
(`gpu.pointers`).
"""

import triton
import triton.language as tl


@triton.jit
def pick(pointers, index):
    """pointers[index] of a tuple of pointers of one type."""
    picked = pointers[0]
    for i in tl.static_range(1, len(pointers)):
        picked = tl.where(index == i, pointers[i], picked)
    return picked
