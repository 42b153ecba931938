"""Programs of one grid that wait for one another, or learn which of them is the last.

They count in memory that no other launch uses meanwhile.
"""

import functools
import threading

import torch
import triton
import triton.language as tl

from ..kept import capturing

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
    gpu = device.type == "cuda"
    if count <= COUNTERS and not (gpu and capturing()):
        stream = torch.cuda.current_stream(device).cuda_stream if gpu else None
        with _lock:
            rows, of_stream = _kept(device)
            row = of_stream.setdefault(stream, len(of_stream))
        if row < STREAMS:
            return rows[row]
    return torch.zeros(1 + count, dtype=torch.int32, device=device)


@triton.jit
def last(counter, programs):
    """Whether this is the last of so many programs to come here: then it sees what all have written before.

    Leaves 0 in the counter.
    """
    tl.debug_barrier()
    is_last = tl.atomic_add(counter, 1, sem="acq_rel") == programs - 1
    if is_last:
        tl.store(counter, 0)
    tl.debug_barrier()
    return is_last


@triton.jit
def meet(counters):
    """All programs of a grid of one axis wait here for one another, and see what all have written before.

    All must run at once: a cooperative launch.
    """
    meetings = tl.atomic_add(counters, 0, sem="acquire")  # before this one is counted: the next cannot have begun
    if last(counters + 1, tl.num_programs(0)):
        tl.atomic_add(counters, 1, sem="acq_rel")
    else:
        while tl.atomic_add(counters, 0, sem="acquire") == meetings:
            pass
    tl.debug_barrier()
