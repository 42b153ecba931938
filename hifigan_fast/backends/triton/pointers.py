"""One of several buffers, chosen by a number that only the device knows."""

import triton
import triton.language as tl


@triton.jit
def pick(pointers, index):
    """pointers[index] of a tuple of pointers of one type."""
    picked = pointers[0]
    for i in tl.static_range(1, len(pointers)):
        picked = tl.where(index == i, pointers[i], picked)
    return picked
