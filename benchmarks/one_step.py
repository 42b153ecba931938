"""The launches of one step, for commands that say what they take: its arguments, and how it is called."""

import argparse
import contextlib

import torch

from hifigan_fast.backends.contract import wide
from hifigan_fast.bench import steps
from hifigan_fast.bench.workloads import ENSEMBLES, build

from . import ahead, report

STEPS = {
    "forward": steps.forward,
    "discriminator": steps.discriminator_step,
    "generator": steps.frozen_generator_step,
}


def parser(name, description):
    """The arguments of a command about one step's launches."""
    made = report.parser(name, description, repeats=1)
    report.add_batch(made)
    made.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    made.add_argument("--dtype", choices=ahead.DTYPES, default="bfloat16", help="of the maps")
    made.add_argument("--ensemble", choices=ENSEMBLES, default="both", help="discriminators")
    made.add_argument("--backend", choices=("triton", "cuda"), default="triton", help="whose kernels")
    made.add_argument("--step", choices=STEPS, default="discriminator", help="what is called")
    made.set_defaults(batch=16)
    return made


def launches(target, args, measure=None):
    """The `ahead.Launch`es of the step that a command's arguments ask for, each with what `measure` says of it."""
    known = ahead.CUDA_TARGETS if args.backend == "cuda" else ahead.TARGETS
    if target not in known:
        raise ValueError(f"target: got {target}, the {args.backend} kernels are compiled for {', '.join(known)}")
    dtype, asked = ahead.dtype_of(args.dtype), {"measure": measure} if measure else {}
    own = wide(dtype)  # of modules and waveforms
    modules = [module.to(own) for module in build(ENSEMBLES[args.ensemble], plain=False)]
    y, y_hat = (torch.zeros(args.batch, 1, report.SEGMENT, dtype=own, device="cpu") for _ in range(2))
    half = torch.autocast("cpu", torch.bfloat16) if dtype == torch.bfloat16 else contextlib.nullcontext()
    with ahead.compiling(target, args.dtype == "tf32", args.backend, **asked) as found, half:
        STEPS[args.step](modules, y, y_hat, steps.FastLosses)
    return found
