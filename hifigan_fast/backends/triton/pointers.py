"""Tensors as kernels take them: aligned memory, and one of several, chosen by a number that only the device knows.

Triton compiles a kernel anew for every combination of pointers of which some are aligned and others not. So all are: of
a tensor that begins elsewhere, kernels get the aligned address before it, and how far it lies behind goes by a table.
"""

import triton
import triton.language as tl

ALIGNED = 16  # bytes: what Triton asks of a pointer, and what a load takes at most


def from_aligned(tensor):
    """Memory that begins at an aligned address, and how many of its elements lie before the dense `tensor`'s first."""
    lead = tensor.data_ptr() % ALIGNED // tensor.itemsize
    if not lead:
        return tensor, 0
    begin = tensor.storage_offset() - lead
    if begin < 0:  # memory that PyTorch did not allocate
        return tensor.clone(), 0
    return tensor.as_strided((lead + tensor.numel(),), (1,), begin), lead


@triton.jit
def pick(pointers, index):
    """pointers[index] of a tuple of pointers of one type."""
    picked = pointers[0]
    for i in tl.static_range(1, len(pointers)):
        picked = tl.where(index == i, pointers[i], picked)
    return picked
