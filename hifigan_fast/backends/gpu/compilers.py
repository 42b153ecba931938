"""Kernels compiled before they are launched: all of a pass side by side, by threads.

The compilers leave Python but for a tenth of the time.
"""

import contextlib
import contextvars
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from ...scoped import within
from .kernels import instead

PATIENCE = 2.0  # seconds until it is said what takes so long

_whole = contextvars.ContextVar("hifigan_fast_whole_pass", default=False)


def _tried(work, *args):
    try:
        return work(*args)
    except SystemError:  # of CPython before 3.11.8 and 3.12.2 (gh-106905) where two threads parse at once
        return work(*args)


class Compilers(ThreadPoolExecutor):
    """Threads, one a core that this process may use, and all that they were asked for."""

    def __init__(self):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        local = os.environ.get("LOCAL_WORLD_SIZE", "")  # processes of one training run on this machine
        super().__init__(max(1, cores // max(1, int(local) if local.isdecimal() else 1)))
        self.asked = []

    def submit(self, *work):
        self.asked.append(super().submit(_tried, *work))
        return self.asked[-1]

    def __exit__(self, kind, *_):
        self.shutdown(cancel_futures=kind is not None)  # interrupted: what has not begun is not

    def tell(self, over):
        """Say how far they are, from time to time until it is `over`: on a terminal, else once."""
        while not over.wait(PATIENCE):
            done, terminal = sum(future.done() for future in self.asked), sys.stderr.isatty()
            if done == len(self.asked):  # nothing to wait for, or nothing yet
                continue
            print(
                f"hifigan_fast: compiling kernels, {done} of {len(self.asked)}; they are kept for the next time",
                file=sys.stderr,
                end="\r" if terminal else "\n",
                flush=True,
            )
            if not terminal:
                return

    @contextlib.contextmanager
    def telling(self):
        """Within the block it is told."""
        over = threading.Event()
        threading.Thread(target=self.tell, args=[over], daemon=True).start()
        try:
            yield
        finally:
            over.set()


class _NotCompiled(Exception):
    """A launch within `whole` that there is no kernel for yet."""


def ask():
    """For a backend that is about to compile: within `whole` it is not to, yet."""
    if _whole.get():
        raise _NotCompiled


def whole(run, side_by_side):
    """What `run()` returns, which may be begun again: where there is no kernel for a launch yet, all that `run` would
    launch are compiled first, within `side_by_side()`."""
    if instead() is not None:
        return run()
    try:
        with within(_whole, True):
            return run()
    except _NotCompiled:
        pass
    with side_by_side():
        run()
    return run()
