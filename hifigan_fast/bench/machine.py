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


def named(device):
    """What a device calls itself."""
    return processor() if device.type == "cpu" else torch.cuda.get_device_name(device)


def conditions(repeats, device="cpu"):
    """When, where and how often a run was made, for its JSON."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": named(torch.device(device)),
        "processor": processor(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
    }


SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices whose product is timed
COPIED = {"cpu": 2**25, "cuda": 2**28}  # floats


def _products(dtype, device):
    """Operations a second of PyTorch's matrix product, in units of 10^9."""
    side = SIDE[device.type]
    a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    return 2e-9 * side**3 / min(interleaved({"product": lambda: a @ b}, 5, device=device)["product"])


def _copied(device):
    """10^9 bytes a second, read and written."""
    source = torch.ones(COPIED[device.type], dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    seconds = interleaved({"copy": lambda: target.copy_(source)}, 3, device=device)["copy"]
    return 2e-9 * source.numel() * source.itemsize / min(seconds)


def ceilings(device):
    """What this device does at most, measured: {gflops: {arithmetic: 10^9 operations a second}, gbytes: 10^9 bytes a
    second, copied from memory to memory, read and written}.

    Of a CPU float32 is its multiply-adds in registers, or its matrix product without the C++ extension; all others are
    matrix products.
    """
    if device.type == "cpu":
        extension, _ = cpu.extension()
        peak = extension.peak(torch.get_num_threads()) / 1e9 if extension else _products(torch.float32, device)
        gflops = {"float32": peak, "bfloat16": max(peak, _products(torch.bfloat16, device))}
    else:
        gflops = {"bfloat16": _products(torch.bfloat16, device)}
        before = torch.backends.cuda.matmul.allow_tf32
        try:
            for name in ("tf32", "float32"):
                torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
                gflops[name] = _products(torch.float32, device)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
    return {"gflops": gflops, "gbytes": _copied(device)}
