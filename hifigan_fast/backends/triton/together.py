"""Programs of one grid that wait for one another, or learn which of them is the last, by `gpu.counters`."""

import triton
import triton.language as tl


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
