"""Global memory: the host's own, seen by address; only the launch's tensors may be reached."""

import ctypes

import numpy as np
import torch

ROW = 16  # bytes of the widest access


class Global:
    """Views over the span of some tensors: an element is found by its address, without a copy.

    Args:
        tensors: {name: contiguous tensor}, at least one.
    """

    def __init__(self, tensors):
        regions = sorted((t.data_ptr(), t.data_ptr() + t.nbytes, name) for name, t in tensors.items() if t.numel())
        if not all(t.is_contiguous() and t.device == torch.device("cpu") for t in tensors.values()):
            raise ValueError("tensors: expected contiguous ones on the CPU")
        self.regions, self.names = np.array([r[:2] for r in regions], np.uint64), [r[2] for r in regions]
        self.low = int(self.regions[0, 0]) // ROW * ROW
        size = -(-(int(self.regions[:, 1].max()) - self.low) // ROW) * ROW
        self._bytes = np.frombuffer((ctypes.c_uint8 * size).from_address(self.low), np.uint8)

    def inside(self, address, size):
        """Whether all bytes of each access are one tensor's."""
        place = np.maximum(np.searchsorted(self.regions[:, 0], address, "right").astype(np.int64) - 1, 0)
        start, end = self.regions[place].T
        return (address >= start) & (address + np.uint64(size) <= end)

    def nearest(self, address):
        """What an address is near to, in words."""
        place = max(int(np.searchsorted(self.regions[:, 0], np.uint64(address), "right")) - 1, 0)
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
