"""The processes that torchrun started, and the device of each."""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist


class Processes(NamedTuple):
    """This process among `ranks`; `local` counts within its machine. Without torchrun: 0 of 1."""

    rank: int = 0
    ranks: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that reports and writes."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print a line, in the first process."""
        if self.first:
            print(text, flush=True)


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join torchrun's other processes, by NCCL for tensors on a GPU and gloo for the CPU's; yields `Processes`."""
    processes = _from_environment()
    if processes.ranks == 1:
        yield processes
        return
    # gloo on a GPU, too: what the processes tell each other between steps (`in_any`) waits for no device.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
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
    if not re.fullmatch("cpu|cuda(:[0-9]+)?", name):
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


def in_any(number: int) -> int:
    """The largest of the processes' numbers, at least 0: 0 only if it is 0 in all."""
    largest = torch.tensor(number, dtype=torch.int64, device="cpu")
    if dist.is_initialized():
        dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def in_all(flags: torch.Tensor) -> torch.Tensor:
    """Bool flags [N] on the CPU, each true where it is in every process."""
    if dist.is_initialized():
        flags = flags.to(torch.uint8)
        dist.all_reduce(flags, dist.ReduceOp.MIN)
    return flags.bool()


def wait_for_all() -> None:
    """Return once every process has come here."""
    in_any(0)


def _from_environment():
    defaults = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
    return Processes(*(int(os.environ.get(key, default)) for key, default in defaults.items()))
