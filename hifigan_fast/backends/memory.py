"""Large buffers, kept for the next step: the first touch of fresh pages may cost as much as a layer's arithmetic."""

import dataclasses
import mmap
import threading
import weakref

import numpy as np
import torch

LEAST = 1 << 20  # bytes: what is smaller malloc reuses itself
SLACK = 1.25  # a block serves requests down to 1 / SLACK of its size
PATIENCE = 256  # requests, those of a few steps, after which a block that nobody took is given back

# Not malloc's: pages that it has handed out before are small ones for ever. Private: a fork gets its own.
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


@dataclasses.dataclass(eq=False)
class _Block:
    memory: np.ndarray
    lease: weakref.ref = lambda: None  # of a view that the tensor's storage holds, and nothing else
    taken: int = 0  # which request took it last


class Pool:
    """Memory that a later request of about its size gets again, once no tensor uses it.

    Args:
        prepare: called as prepare(address, bytes) with fresh memory, before its first touch.
    """

    def __init__(self, prepare):
        self._prepare = prepare
        self._lock = threading.Lock()
        self._blocks = []
        self._requests = 0

    def empty(self, count, dtype):
        """A flat tensor of `count` elements, not initialised."""
        size = count * dtype.itemsize
        if size < LEAST:
            return torch.empty(count, dtype=dtype, device="cpu")
        with self._lock:
            block = self._take(size)
            lease = block.memory[:]
            block.lease, block.taken = weakref.ref(lease), self._requests
        return torch.frombuffer(lease, dtype=dtype, count=count)

    def _take(self, size):
        self._requests += 1
        self._blocks = [b for b in self._blocks if b.lease() is not None or self._requests - b.taken <= PATIENCE]
        fitting = [b for b in self._blocks if b.lease() is None and size <= b.memory.nbytes <= SLACK * size]
        if fitting:
            return min(fitting, key=lambda b: b.memory.nbytes)
        block = _Block(np.frombuffer(mmap.mmap(-1, size, **PRIVATE), np.uint8))
        self._prepare(block.memory.ctypes.data, size)
        self._blocks.append(block)
        return block
