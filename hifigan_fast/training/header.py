"""What a run says of itself before it begins."""

from typing import Any

import torch
from tabulate import tabulate

import hifigan_fast

from .. import dispatch
from .data import Clips
from .step import Trainer


def header(run: Any) -> str:
    """A few lines of text about a `loop.Run`: device, backend and why, data, parameters, where its logs go."""
    trainer, config = run.trainer, run.trainer.config
    sizes = {name: parameters(getattr(trainer, name)) for name in ("generator", "mpd", "msd")}
    rows = [
        ("device", device(trainer.device, run.processes.ranks)),
        ("discriminators", backend(trainer)),
        ("clips", f"{len(run.training):,} to train on ({hours(run.training)}), {len(run.held_out):,} held out"),
        ("batch", f"{config.batch_size} × {config.segment_size} samples, {run.order.batches_per_epoch:,} an epoch"),
        ("parameters", ", ".join(f"{name} {size:,}" for name, size in sizes.items())),
        ("logs", f"{run.out / 'metrics.jsonl'}; tensorboard --logdir {run.out / 'logs'}"),
    ]
    if trainer.device.type == "cuda":
        rows.insert(1, ("steps", steps(trainer.cuda_graph, run.processes.ranks)))
    return tabulate(rows, tablefmt="plain")


def steps(graphed: bool, processes: int) -> str:
    """How a GPU is given its steps, and why."""
    if graphed:
        return "replayed as a CUDA graph from the fourth on"
    return "launched one by one, " + ("there are several processes" if processes > 1 else "as asked for")


def device(device: torch.device, processes: int) -> str:
    """The device in words, and how many processes have one each."""
    name = f"cpu (threads: {torch.get_num_threads()})"
    if device.type == "cuda":
        name = f"{device}, {torch.cuda.get_device_name(device)}"
    return f"{processes} processes, each on {name}" if processes > 1 else name


def backend(trainer: Trainer) -> str:
    """What runs the trainer's discriminators, and why."""
    if trainer.kind is hifigan_fast.reference:
        return "plain PyTorch: asked for by discriminators"
    if dispatch.requested() == dispatch.MODULES:
        return "plain PyTorch: requested"
    dtype = trainer.dtype or torch.float32
    lacking = dispatch.no_kernels(trainer.device, dtype)
    if lacking:
        return f"plain PyTorch: {lacking}"
    choice = dispatch.choose(trainer.device, dtype)
    return f"backend {choice.backend.name}, {str(dtype).removeprefix('torch.')}: {choice.why}"


def parameters(module: torch.nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(parameter.numel() for parameter in module.parameters())


def hours(clips: Clips) -> str:
    """How long clips are in all."""
    seconds = clips.seconds
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
