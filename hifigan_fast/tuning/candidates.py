"""Which configurations are tried for a layer."""

import itertools
from dataclasses import replace

from ..backends.gpu.kernels import cdiv
from ..backends.triton.configs import Config
from ..backends.triton.kernels import stretch

SIZES = (16, 32, 64, 128, 256)
CHOICES = {"BM": SIZES, "BN": SIZES, "BK": SIZES[:-1], "num_warps": (4, 8), "num_stages": (2, 3, 4)}
BYTES = {"half": 2, "tf32": 4, "float32": 4}
WIDEST = {"half": 256, "tf32": 256, "float32": 128}
SUMS = {"half": 128, "tf32": 128, "float32": 64}  # that a thread has registers for
LEAST_SUMS = 16  # of a thread, where more warps than four shall be worth it
# BK and stages of the first round.
STEPS = {
    "half": ((64, 3), (64, 4), (128, 2)),
    "tf32": ((32, 3), (32, 4), (64, 2)),
    "float32": ((16, 2), (32, 2)),
}


def _limits(direction, layer):
    """{name of a block size: the most that makes sense}: none is wider than what a product has, or longer."""
    inner, outer = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    along = 1 if 1 in (layer.in_channels, layer.out_channels) else stretch(direction, layer, SIZES[-1])
    found = {
        "forward": {"BN": along * outer, "BK": layer.taps * inner},
        "input_grad": {"BN": along * inner, "BK": cdiv(layer.taps, layer.stride) * outer},
        "weight_grad": {"BM": along * outer, "BN": layer.taps * inner},
    }[direction]
    return {name: max(SIZES[0], 1 << (most - 1).bit_length()) for name, most in found.items()}


def _fits(config, arithmetic, shared):
    """Whether a program has the registers and the shared memory (bytes), and its warps something to do."""
    sums = config.BM * config.BN // (32 * config.num_warps)
    worth_it = config.num_warps == CHOICES["num_warps"][0] or sums >= LEAST_SUMS
    held = config.num_stages * (config.BM + config.BN) * config.BK * BYTES[arithmetic]
    return sums <= SUMS[arithmetic] and worth_it and held <= shared


def first(direction, arithmetic, layer, shared):
    """The first round's: the larger tiles, by few steps.

    Args:
        shared: bytes of shared memory that a program may have.
    """
    limits = _limits(direction, layer)
    group = "BM" if direction == "weight_grad" else "BN"  # the size that the channels of a group limit

    def sizes(name):
        able = [size for size in SIZES if size <= min(limits.get(name, SIZES[-1]), WIDEST[arithmetic])]
        return able[-2:] if name == group else able[-3:]

    longest = limits.get("BK", SIZES[-1])
    steps = dict.fromkeys((bk, stages) if bk < longest else (longest, 2) for bk, stages in STEPS[arithmetic])
    tiles = itertools.product(sizes("BM"), sizes("BN"), CHOICES["num_warps"], steps)
    found = [Config(bm, bn, bk, warps, stages) for bm, bn, warps, (bk, stages) in tiles]
    return [config for config in found if _fits(config, arithmetic, shared)]


def neighbours(config, direction, arithmetic, layer, shared):
    """Configurations that differ in one number, by a step."""
    limits = _limits(direction, layer)
    for name, numbers in CHOICES.items():
        was = getattr(config, name)
        for number in numbers:
            changed = replace(config, **{name: number})
            near = number != was and max(number, was) <= 2 * min(number, was)
            if near and number <= limits.get(name, number) and _fits(changed, arithmetic, shared):
                yield changed
