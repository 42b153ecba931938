"""Global memory: the host's own, seen by address; only the launch's tensors may be reached."""

import ctypes

import numpy as np
import torch

ROW = 16  # bytes of the widest access


def _extent(tensor):
    """(address of the first element, end of the last)"""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.itemsize


class Global:
    """Views over the span of some tensors: an element is found by its address, without a copy.

    Args:
        tensors: [(name, tensor)], at least one; several may have the same memory.
    """

    def __init__(self, tensors):
        if not all(t.device == torch.device("cpu") for _, t in tensors):
            raise ValueError("tensors: expected them on the CPU")
        regions = []
        for start, end, name in sorted((*_extent(t), name) for name, t in tensors if t.numel()):
            if regions and start < regions[-1][1]:
                regions[-1] = regions[-1][0], max(end, regions[-1][1]), f"{regions[-1][2]} and {name}"
            else:
                regions.append((start, end, name))
        self.regions, self.names = np.array([r[:2] for r in regions], np.uint64), [r[2] for r in regions]
        self.low = int(self.regions[0, 0]) // ROW * ROW
        size = -(-(int(self.regions[:, 1].max()) - self.low) // ROW) * ROW
        self._bytes = np.frombuffer((ctypes.c_uint8 * size).from_address(self.low), np.uint8)

    def region(self, address):
        """The number of the last region that begins at or before each address; of the first one, if none does."""
        return np.maximum(np.searchsorted(self.regions[:, 0], address, "right").astype(np.int64) - 1, 0)

    def inside(self, address, size):
        """Whether all bytes of each access are one region's."""
        start, end = self.regions[self.region(address)].T
        return (address >= start) & (address + np.uint64(size) <= end)

    def nearest(self, address):
        """What an address is near to, in words."""
        place = int(self.region(np.uint64(address)))
        start, end = (int(x) for x in self.regions[place])
        return f"{int(address) - start} bytes behind the start of {self.names[place]}, which has {end - start}"

    def _rows(self, address, size, count):
        """([row, count] of elements of `size` bytes, the rows of `address`es)."""
        row = np.uint64(size * count)
        whole = self._bytes[: len(self._bytes) // int(row) * int(row)]
        return whole.view(f"u{size}").reshape(-1, count), (address - np.uint64(self.low)) // row

    def load(self, address, size, count):
        rows, at = self._rows(address, size, count)
        return rows[at]

    def store(self, address, size, count, values):
        rows, at = self._rows(address, size, count)
        rows[at] = values
