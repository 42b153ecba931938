"""Runs shared out among processes."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from hifigan_fast.training.interrupts import Interrupts

from .runs import Run

WAIT = 0.2  # seconds from one look at the processes to the next


def shared_out(command: Sequence[str], wanted: Sequence[Run], jobs: int) -> int:
    """Run `command` with the names of an equal share of `wanted` behind it in each of `jobs` processes.

    A process that fails leaves the others going; a signal ends them all. Returns an exit status, as `course.work`.
    """
    slowest_first = sorted(wanted, key=lambda run: run.way != "plain")
    shares = [slowest_first[index::jobs] for index in range(min(jobs, len(wanted)))]
    with Interrupts(say=False) as interrupts:
        processes = [subprocess.Popen([sys.executable, *command, *(run.name for run in share)]) for share in shares]
        try:
            while any(process.poll() is None for process in processes) and not interrupts.signal:
                time.sleep(WAIT)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)  # not SIGINT: a terminal's Ctrl-C reached it, two are too many
            statuses = [process.wait() for process in processes]
    for share, status in zip(shares, statuses):
        if status < 0:
            names = ", ".join(run.name for run in share)
            print(f"ended by signal {-status}, the process of {names}", file=sys.stderr, flush=True)
    return 128 + interrupts.signal if interrupts.signal else int(any(statuses))
