"""Where a run is made, and what that machine does at most."""

import datetime
import subprocess
from pathlib import Path

import torch

from ..backends import cpu
from ..info import processor, versions
from .timing import interleaved


def _commit():
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def conditions(repeats):
    """When, where and how often a run was made, for its JSON."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": processor(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
    }


def ceilings():
    """What this machine does at most, measured: {gflops: float32 multiply-adds in registers, None without the C++
    extension; gbytes: copied from memory to memory, read and written}.
    """
    extension, _ = cpu.extension()
    source = torch.ones(2**25, dtype=torch.float32, device="cpu")
    target = torch.empty_like(source)
    seconds = interleaved({"copy": lambda: target.copy_(source)}, 3)["copy"]
    return {
        "gflops": extension.peak(torch.get_num_threads()) / 1e9 if extension else None,
        "gbytes": 2 * source.numel() * source.itemsize / min(seconds) / 1e9,
    }
