"""Where a run is made, and what that machine does at most."""

import datetime
import os
import subprocess
from pathlib import Path

import torch

from ..backends import cpu
from ..info import processor, versions
from .timing import interleaved


def _commit():
    """The commit that this file is of, "-dirty" behind it where tracked files have changed; None where git does not
    track it, as of an installed package, whatever repository that lies in.
    """
    here = Path(__file__)
    commands = ["ls-files", "--error-unmatch", here.name], ["describe", "--always", "--dirty", "--exclude=*"]
    try:
        said = [
            subprocess.run(["git", *of], cwd=here.parent, capture_output=True, text=True, check=True).stdout
            for of in commands
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return said[-1].strip()


def _load():
    """How many processes ran or waited on average in the last 1, 5 and 15 minutes; None where nothing tells."""
    try:
        return [round(load, 2) for load in os.getloadavg()]
    except (AttributeError, OSError):
        return None


def _instruction_set(device):
    extension = cpu.extension()[0] if device.type == "cpu" else None
    return extension and extension.instruction_set()


def named(device):
    """What a device calls itself."""
    return processor() if device.type == "cpu" else torch.cuda.get_device_name(device)


def conditions(repeats, device="cpu"):
    """When, where and how often a run was made, for its JSON; load: of the whole machine, as the run began."""
    device = torch.device(device)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": named(device),
        "processor": processor(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "instruction_set": _instruction_set(device),
        "load": _load(),
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
