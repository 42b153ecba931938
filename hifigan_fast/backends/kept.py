"""What is made once a shape and kept: bounded, and as long as a CUDA graph needs it."""

import functools
import threading
from collections import OrderedDict

import torch

MOST = 512  # of one function's results: those of a few dozen shapes


def capturing():
    """Whether the current stream's work goes into a CUDA graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def kept(make):
    """Keeps the results of `make` by its arguments, the least recently used no longer; but for ever what a CUDA graph
    took, which holds addresses."""
    found, held, lock = OrderedDict(), {}, threading.Lock()

    @functools.wraps(make)
    def get(*key):
        with lock:
            value = found.get(key)
            if value is not None:
                found.move_to_end(key)
        if value is None:
            value = make(*key)
            with lock:
                value = found.setdefault(key, value)
                while len(found) > MOST:
                    found.popitem(last=False)
        if capturing():
            held[key] = value
        return value

    get.found, get.held = found, held
    return get
