"""What the commands of this folder share: their arguments, the conditions of a run, the JSON, the exit status."""

import argparse
import json
import sys
from pathlib import Path

import torch

from hifigan_fast.backends import cpu
from hifigan_fast.bench import machine
from hifigan_fast.cli import positive

SEGMENT = 8192  # samples of a waveform, as HiFi-GAN trains


def extension():
    """The C++ extension; ImportError without."""
    module, reason = cpu.extension()
    if module is None:
        raise ImportError(reason)
    return module


def peak():
    """Floating-point operations a second of this machine: multiply-adds in registers, by PyTorch's thread count."""
    return extension().peak(torch.get_num_threads())


def parser(name, description, repeats):
    """The arguments that every command has."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    made.add_argument("--repeats", metavar="N", type=positive, default=repeats, help="interleaved; default %(default)s")
    made.add_argument("--out", metavar="FILE", help="write the figures to this JSON file")
    return made


def add_batch(made):
    """The argument of commands that take waveforms of one shape."""
    made.add_argument("--batch", metavar="N", type=positive, default=4, help="samples of a side; default %(default)s")


def conditions(args):
    """When, where and how a run was made, for its JSON."""
    made = {**machine.conditions(args.repeats), "device": "cpu"}
    if "batch" in args:
        made |= {"batch": args.batch, "segment": SEGMENT}
    return made


def save(path, result):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def write(path, result):
    save(path, result)
    print(f"\nwritten: {path}")


def run(command, args):
    """Run a command -> exit status: 0, or 2 for a user's error."""
    try:
        command(args)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
