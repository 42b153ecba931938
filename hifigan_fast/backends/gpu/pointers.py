"""Tensors as kernels take them: in aligned memory.

Of a tensor that begins elsewhere, kernels get the aligned address before it, and how far it lies behind goes by a
table: they are compiled for aligned pointers, once.
"""

from ..contract import ALIGNED
from .kernels import recording


def from_aligned(tensor):
    """Memory that begins at an aligned address, and how many of its elements lie before the dense `tensor`'s first."""
    lead = tensor.data_ptr() % ALIGNED // tensor.itemsize
    if not lead:
        return tensor, 0
    begin = tensor.storage_offset() - lead
    if begin < 0:  # memory that PyTorch did not allocate
        return tensor.clone(), 0
    memory = tensor.as_strided((lead + tensor.numel(),), (1,), begin)
    if recording():
        recording().begins_before(memory, tensor)
    return memory, lead


def aligned(grads):
    """Gradients of maps, or None, those that begin elsewhere copied."""
    return tuple(g if g is None or g.data_ptr() % ALIGNED == 0 else g.clone() for g in grads)


def alike(tensors):
    """Tensors of one dtype: kernels pick one of them by number, as a pointer of one type."""
    tensors = tuple(tensors)
    return tensors if len({t.dtype for t in tensors}) == 1 else tuple(t.float() for t in tensors)
