"""The caller's gradients of the maps as a backward pass reads them."""

import functools

import torch

from .maps import map_strides


class MapGrads:
    """The caller's gradients of the maps, {member: [depth]}, None where there are none.

    Attributes:
        given: the members that have any, and the depth of each one's last.
        lies_as_read: whether all lie in memory as `of_maps` returns them.
    """

    def __init__(self, ensemble, maps):
        self.ensemble, self.maps = ensemble, maps
        depths = range(len(ensemble.layers) - 1, -1, -1)
        last = [(member, next((d for d in depths if grads[d] is not None), None)) for member, grads in maps.items()]
        self.given = tuple(own for own in last if own[1] is not None)

    @functools.cached_property
    def lies_as_read(self):
        places = map_strides(self.ensemble)
        return all(
            not grad._is_zerotensor() and not grad.is_neg() and (grad.stride() == strides or _lies_as_rows(grad))
            for member, _ in self.given
            for grad, strides in zip(self.maps[member][:-1], places[member[0]])
            if grad is not None
        )

    def of_heads(self, active):
        return [_in_memory(self.maps[member][-1]) for member in active]

    def of_maps(self, depth, active):
        """What `Backend.input_grad` adds to the gradients of layer `depth`'s outputs."""
        grads = [self.maps[member][depth] for member in active]
        return grads if self.lies_as_read else [_rows_of(grad) for grad in grads], None

    def beside(self, depths, active):
        """What `of_maps` of these depths returns that is in no buffer of a pass."""
        return [self.maps[member][depth] for depth in depths for member in active]


def _in_memory(grad):
    """Kernels read memory, and know nothing of lazy signs and lazy zeros."""
    if grad is None:
        return None
    lazy = grad._is_zerotensor()
    return torch.zeros(grad.shape, dtype=grad.dtype, device=grad.device) if lazy else grad.resolve_neg()


def _lies_as_rows(grad):
    """Whether a map's gradient [samples, channels, rows, (period)] is [samples, period, rows, channels] in memory."""
    return _is_contiguous((0, *range(grad.dim() - 1, 0, -1)), grad.shape, grad.stride())


@functools.lru_cache(maxsize=512)
def _is_contiguous(order, shape, strides):
    """Whether a tensor's dimensions, taken in this order, lie one within another in memory."""
    expected = 1
    for dim in reversed(order):
        if shape[dim] > 1 and strides[dim] != expected:
            return False
        expected *= shape[dim]
    return True


def _rows_of(grad):
    """In the layout of the buffers, [samples, period, rows, channels]; a copy only if it must be."""
    grad = _in_memory(grad)
    if grad is None:
        return None
    return (grad.permute(0, 3, 2, 1) if grad.dim() == 4 else grad.transpose(1, 2)).contiguous()
