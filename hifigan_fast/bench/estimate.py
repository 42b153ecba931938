"""`hifigan-fast estimate`: how long a training would take here, with the package and without."""

import functools
import statistics

import torch
from tabulate import tabulate

from .. import extras, parity
from . import machine
from .timing import interleaved, spread

NOTE = """Validation, checkpoints and the reading of wavs come on top. Plain PyTorch is this package's
loop, which freezes the discriminators in the generator's half; the original loop does not, and is slower."""


def seconds_per_step(config, device, precision, repeats):
    """{discriminators: seconds of each timed step} of real training steps on synthetic voice, in turn.

    config: a `training.config.Config`; device: torch.device. The first step of each, which sets itself up, does not
    count.
    """
    from ..training.graph import WARM_UP
    from ..training.step import DISCRIMINATORS, Trainer

    y = parity.waveforms(config.batch_size, config.segment_size)[0].squeeze(1).to(device)
    torch.backends.cudnn.benchmark = True  # as `train` has it
    trainers = {kind: Trainer(config, device, kind, precision, cuda_graph=None) for kind in DISCRIMINATORS}

    def step(trainer):
        trainer.train_step(y).read()  # which waits for the device

    calls = {kind: functools.partial(step, trainer) for kind, trainer in trainers.items()}
    if device.type == "cuda":  # steps are replayed as a graph once they are warm
        interleaved(calls, WARM_UP)
    return {kind: taken[1:] for kind, taken in interleaved(calls, repeats).items()}


def run(config="v1", steps=2_500_000, batch=None, precision="fp32", device=None, repeats=3):
    """Print both estimates -> exit status. ValueError for a configuration or device that there is not."""
    extras.require("the estimate", "train", "librosa")
    from ..training.config import load_config
    from ..training.processes import pick_device

    config = load_config(config, **({} if batch is None else {"batch_size": batch}))
    place = pick_device(device)
    where = machine.processor() if place.type == "cpu" else torch.cuda.get_device_name(place)
    shape = f"batch {config.batch_size} × {config.segment_size}, {precision}"
    print(f"{repeats} training steps of each in turn on {where}, {shape}:")
    taken = seconds_per_step(config, place, precision, repeats)
    names = {"fast": "hifigan_fast", "reference": "plain PyTorch, this loop"}
    medians = {kind: statistics.median(seconds) for kind, seconds in taken.items()}
    rows = [
        (names[kind], f"{s:.2f}", f"{steps * s / 3600:,.1f}", f"{spread(taken[kind]) or 0:.0%}")
        for kind, s in medians.items()
    ]
    headers = ("discriminators", "s a step", f"hours for {steps:,} steps", "spread")
    print(tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", *3 * ("right",))))
    print(f"{medians['reference'] / medians['fast']:.2f} × as fast. {NOTE}")
    return 0
