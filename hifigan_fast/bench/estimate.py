"""`hifigan-fast estimate`: how long a training would take here, with the package and without; or on another device."""

import statistics

from tabulate import tabulate

from .. import extras, parity
from . import machine
from .steps import ORIGINAL, ORIGINAL_STEPS, OURS, Way
from .timing import interleaved, uncertainty

NOTE = "Validation, checkpoints and the reading of wavs come on top."
MODEL = (
    "A model, not measured: the least that the datasheet's rates allow. Kernels reach less, PyTorch's far less: hours "
    "are lower bounds, their ratios no speed-up (docs/gpu.md has one that was measured)."
)
NAMES = {OURS: "hifigan_fast", "frozen": "plain PyTorch, this loop", ORIGINAL: "plain PyTorch, the original's loop"}
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def seconds_per_step(config, device, precision, repeats):
    """{way: seconds of each timed step} of real training steps on synthetic voice, in turn.

    config: a `training.config.Config`; device: torch.device. The first step of each, which sets itself up, does not
    count. On a CUDA device this package's loop replays its steps as a graph, the original's does not.
    """
    from . import training

    y = parity.waveforms(config.batch_size, config.segment_size)[0].squeeze(1).to(device)
    loop = Way(dtype=DTYPES[precision], graph=device.type == "cuda")
    ways = {OURS: loop._replace(ours=True), "frozen": loop, ORIGINAL: loop._replace(graph=False, steps=ORIGINAL_STEPS)}
    calls = {name: training.Step(config, way, y) for name, way in ways.items()}
    return {name: taken[1:] for name, taken in interleaved(calls, repeats).items()}


def run(config="v1", steps=2_500_000, batch=None, precision="fp32", device=None, repeats=3, device_model=None):
    """Print the estimates -> exit status. ValueError for a configuration or device that there is not.

    device_model: a GPU of `datasheets.DEVICES`, by its short name: a model's figures for it, and nothing is timed.
    """
    extras.require("the estimate", "train", "librosa")
    from ..training.config import load_config
    from ..training.processes import pick_device

    config = load_config(config, **({} if batch is None else {"batch_size": batch}))
    shape = f"batch {config.batch_size} × {config.segment_size}, {precision}"
    if device_model:
        return _modelled(config, steps, precision, shape, device_model)
    place = pick_device(device)
    print(f"{repeats} training steps of each in turn on {machine.named(place)}, {shape}:")
    taken = seconds_per_step(config, place, precision, repeats)
    uncertain = {way: uncertainty(seconds) for way, seconds in taken.items()}
    errors = {way: "?" if of is None else f"{of:.1%}" for way, of in uncertain.items()}
    _print({way: statistics.median(seconds) for way, seconds in taken.items()}, steps, {"±": errors})
    print(NOTE)
    return 0


def _modelled(config, steps, precision, shape, device_model):
    from . import datasheets, model

    name = datasheets.named(device_model)
    sheet = datasheets.DEVICES[name]
    arithmetic = sheet.arithmetic(precision)
    print(f"a model of training steps on {name}, {shape} ({arithmetic}); nothing was timed:")
    _print(model.seconds_per_step(config, sheet, arithmetic), steps, {})
    print(f"{MODEL} {NOTE}")
    return 0


def _print(seconds, steps, others):
    """A table of seconds a step by way, with columns {header: {way: text}}, and how they compare."""
    rows = [
        (
            NAMES[way],
            f"{s:.4f}" if s < 0.1 else f"{s:.2f}",
            f"{steps * s / 3600:,.1f}",
            *(o[way] for o in others.values()),
        )
        for way, s in seconds.items()
    ]
    headers = ("discriminators", "s a step", f"hours for {steps:,} steps", *others)
    align = ("left", *(len(headers) - 1) * ("right",))
    print(tabulate(rows, headers=headers, disable_numparse=True, colalign=align))
    print(
        ", ".join(f"{seconds[way] / seconds[OURS]:.2f} × as fast as {NAMES[way]}" for way in seconds if way != OURS)
        + "."
    )
