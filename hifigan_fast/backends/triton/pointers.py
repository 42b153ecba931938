"""One of several buffers, chosen by a number that only the device knows."""

import triton
import triton.language as tl


@triton.jit
def pick(pointers, index):
    """pointers[index] of a tuple of pointers of one type."""
    address = pointers[0].to(tl.int64)
    for i in tl.static_range(1, len(pointers)):
        address = tl.where(index == i, pointers[i].to(tl.int64), address)
    return address.to(pointers[0].dtype)
