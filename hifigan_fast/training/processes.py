"""The processes that torchrun started, and the device of each."""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist


class Processes(NamedTuple):
    """This process among `ranks`; `local` counts within its machine. Without torchrun: 0 of 1."""

    rank: int = 0
    ranks: int = 1
    local: int = 0


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join torchrun's other processes, by NCCL on CUDA and gloo on the CPU; yields `Processes`."""
    processes = _from_environment()
    if processes.ranks == 1:
        yield processes
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield processes
    finally:
        dist.destroy_process_group()


def pick_device(name: str | None = None) -> torch.device:
    """The device `name` ("cpu", "cuda", "cuda:1"); None is CUDA where there is any. Under torchrun, the process's own.

    Raises ValueError for a name that is none of these and for a device that this machine does not have.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or not (index or "0").isdecimal():
        raise ValueError(f"device: expected cpu, cuda or cuda:N, got {name!r}")
    if kind == "cpu":
        return torch.device("cpu")
    processes = _from_environment()
    if index and processes.ranks > 1:
        raise ValueError(f"device: each of several processes takes the GPU of its number, expected cuda, got {name!r}")
    device = torch.device("cuda", int(index) if index else processes.local)
    if device.index >= torch.cuda.device_count():
        raise ValueError(f"device: this machine has {torch.cuda.device_count()} CUDA devices, got {device}")
    torch.cuda.set_device(device)
    return device


def check_same_step(step: int) -> None:
    """Raise ValueError unless every process is at `step`: each must have found the same checkpoint."""
    if not dist.is_initialized():
        return
    steps: list[int | None] = [None] * dist.get_world_size()
    dist.all_gather_object(steps, step)
    if len(set(steps)) > 1:
        raise ValueError(
            f"out: the processes found checkpoints of the steps {steps}, expected one folder shared by all"
        )


def _from_environment():
    defaults = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
    return Processes(*(int(os.environ.get(key, default)) for key, default in defaults.items()))
