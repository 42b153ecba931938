"""Counters by which programs of one grid wait for one another, or learn which of them is the last.

They lie in memory that no other launch uses meanwhile.
"""

import functools
import threading

import torch

from ..kept import capturing
from .kernels import recording

STREAMS, COUNTERS = 64, 511  # a row of each stream, with its meetings: aligned to 16 bytes, or Triton compiles again
_lock = threading.Lock()


@functools.cache
def _kept(device):
    """Counters of a device by row, for ever, and which row a stream has: launches of one stream follow one another."""
    return torch.zeros(STREAMS, 1 + COUNTERS, dtype=torch.int32, device="cpu").to(device), {}


def counters(device, count):
    """A number of meetings, and `count` counters or more that are 0 before and after each launch.

    Those of the current stream, but a CUDA graph has its own: it may be replayed on any.
    """
    found = _counters(device, count)
    if recording():
        recording().counted(found, count)
    return found


def _counters(device, count):
    gpu = device.type == "cuda"
    if count <= COUNTERS and not (gpu and capturing()):
        stream = torch.cuda.current_stream(device).cuda_stream if gpu else None
        with _lock:
            rows, of_stream = _kept(device)
            row = of_stream.setdefault(stream, len(of_stream))
        if row < STREAMS:
            return rows[row]
    return torch.zeros(1 + count, dtype=torch.int32, device=device)
