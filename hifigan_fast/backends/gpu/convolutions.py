"""One layer's three directions as launches: grids, tables and buffers."""

from dataclasses import dataclass

import torch

from . import tables
from .devices import precision
from .kernels import cdiv
from .pointers import aligned
from .program import empty

STEM_CHANNELS = 32  # of a stem's gradient at a time
PROGRAMS = 1056  # of a weight gradient, where rows allow: eight for each multiprocessor of a large device


def geometry(layer):
    """A layer as constants of a kernel."""
    return {
        "IN": layer.in_channels,
        "OUT": layer.out_channels,
        "GROUPS": layer.groups,
        "TAPS": layer.taps,
        "STRIDE": layer.stride,
        "PADDING": layer.padding,
    }


def forward(kernels, role, layer, runs, x, weights, out):
    stand_in = kernels.stand_in("forward", role, layer, out)
    if stand_in:
        return stand_in(layer, runs, x, weights, out)
    kernel, config = kernels.config("forward", role, layer, out)
    tiles = tables.tiles(runs, config.BM, config.stretch, out.device)
    kernels.launch(
        out.device,
        kernel,
        (len(tiles), layer.groups * cdiv(config.stretch * layer.out_channels // layer.groups, config.BN)),
        x,
        weights.packed,
        weights.bias,
        out,
        tables.runs_on(runs, out.device),
        tiles,
        layer.slope,
        STEM=role == "stem",
        HEAD=role == "head",
        PRECISION=precision(out, layer),
        **geometry(layer),
        **config.arguments(),
    )


def input_grad(kernels, role, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in):
    stand_in = kernels.stand_in("input_grad", role, layer, grad_in)
    if stand_in:
        return stand_in(layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in)
    kernel, config = kernels.config("input_grad", role, layer, grad_in)
    tiles = tables.phase_tiles(runs, layer, config.BM, config.stretch, grad_in.device)
    kernels.launch(
        grad_in.device,
        kernel,
        (len(tiles), layer.groups * cdiv(config.stretch * layer.in_channels // layer.groups, config.BN)),
        grad_out,
        weights.packed,
        saved,
        aligned(map_grads),
        matching,
        grad_in,
        tables.runs_on(runs, grad_in.device),
        tiles,
        slope,
        RUNS=len(runs),
        HEAD=role == "head",
        PRECISION=precision(grad_in, layer),
        **geometry(layer),
        **config.arguments(),
    )


def stem_input_grad(kernels, layer, runs, grad_out, weights, grad_waves):
    ordered, tiles = tables.wave_tiles(runs, kernels.stem_places, grad_waves.device)
    constants = geometry(layer)
    kernels.launch(
        grad_waves.device,
        kernels.stem_input_grad,
        (len(tiles),),
        grad_out,
        weights.packed,
        grad_waves,
        ordered,
        tiles,
        **{key: constants[key] for key in ("OUT", "TAPS", "STRIDE", "PADDING")},
        BM=kernels.stem_places,
        BO=STEM_CHANNELS,
    )


@dataclass
class Sums:
    """One layer's sums of splits: gradients of effective weights and of biases, not yet those of the parameters."""

    partial: torch.Tensor  # [split, out, taps, in / groups]
    bias: torch.Tensor  # [split, out]
    of_set: dict  # {weight set: (first split, end)}

    @classmethod
    def empty(cls, layer, splits, of_set, device):
        """To be written by one launch of so many splits."""
        rows = splits, layer.out_channels
        shapes = (*rows, layer.taps, layer.in_channels // layer.groups), rows
        return cls(*(empty(shape, torch.float32, device) for shape in shapes), of_set)


def splits_of_a_set(layer, runs, blocks, x, grad_out, each=1):
    """How many programs share the rows of a set, where `blocks` (two numbers) of them share a weight gradient.

    More fill the device, and all their sums are written, `each` of a split: a fourth of what is read, at most.
    """
    sets = len(tables.sets_of(runs))
    by_programs = cdiv(PROGRAMS, blocks[0] * blocks[1] * sets)
    by_memory = (x.nbytes + grad_out.nbytes) // (4 * 4 * sets * each * layer.weights)
    return max(1, min(by_programs, by_memory))


def weight_grad(kernels, role, layer, runs, x, grad_out, weights):
    stand_in = kernels.stand_in("weight_grad", role, layer, grad_out)
    if stand_in:
        return stand_in(layer, runs, x, grad_out, weights)
    kernel, config = kernels.config("weight_grad", role, layer, grad_out)
    out_group, in_group, stretch = layer.out_channels // layer.groups, layer.in_channels // layer.groups, config.stretch
    positions = (layer.taps + (stretch - 1) * layer.stride) * in_group
    blocks = layer.groups * cdiv(stretch * out_group, config.BM), cdiv(positions, config.BN)
    wanted = splits_of_a_set(layer, runs, blocks, x, grad_out, stretch)
    splits = tables.splits(runs, config.BK, stretch, wanted, grad_out.device)
    of_set = {s: (stretch * first, stretch * end) for s, (first, end) in splits.of_set.items()}
    found = Sums.empty(layer, stretch * len(splits.table), of_set, grad_out.device)
    kernels.launch(
        grad_out.device,
        kernel,
        (len(splits.table), *blocks),
        x,
        grad_out,
        found.partial,
        found.bias,
        tables.runs_on(runs, grad_out.device),
        splits.tiles,
        splits.table,
        STEM=role == "stem",
        HEAD=role == "head",
        PRECISION=precision(grad_out, layer),
        **geometry(layer),
        **config.arguments(),
    )
    return found
