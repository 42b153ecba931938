"""`tiny.py` as one of several processes with trouble in the second: a NaN in its batch 2, and the launcher ended."""

import os
import signal
import sys

from hifigan_fast.training import loop

from . import tiny

BATCHES = loop.endless_batches


def troubled(*args):
    for number, (y, *mels) in enumerate(BATCHES(*args), 1):
        if number == 2 and os.environ["RANK"] == "1":
            y[0, 7] = float("nan")
        if number == 4 and os.environ["RANK"] == "1":
            os.kill(os.getppid(), signal.SIGTERM)
        yield y, *mels


if __name__ == "__main__":
    loop.endless_batches = troubled
    sys.exit(tiny.main())
