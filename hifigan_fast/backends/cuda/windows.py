"""The window kernels' launches: of every convolution that is neither a stem nor a head, and whose taps fit."""

import functools

from ..gpu import devices, tables
from ..gpu.convolutions import Sums, geometry, splits_of_a_set
from ..gpu.kernels import cdiv
from ..gpu.pointers import aligned
from . import blocks, tiles

AT_ONCE = 2  # programs for each multiprocessor, of layers whose weights stay in shared memory


def kind(like, layer):
    """What a layer multiplies maps like this tensor in, as `blocks` has it."""
    return "tf32" if devices.arithmetic(like, layer) == "tf32" else str(like.dtype).removeprefix("torch.")


def target(device):
    """The compute capability whose shared memory `blocks` knows: the device's own, or the latest before it."""
    major, minor = devices.capability(device)
    return max(known for known in blocks.SHARED if known <= 10 * major + minor)


@functools.lru_cache(maxsize=512)
def _launched(direction, layer, of, capability):
    own = blocks.blocks_of(direction, layer, of, capability)
    constants = {"PRECISION": of, "SHARED": blocks.shared_bytes(direction, own, of)}
    return own, geometry(layer) | own.constants() | constants


def launched(direction, layer, like):
    """(`Blocks`, the constants of a launch) of a layer for maps like a tensor; None where its taps do not fit."""
    try:
        return _launched(direction, layer, kind(like, layer), target(like.device))
    except ValueError:
        return None


def _programs(device, columns, runs):
    """How many walk through a set's tiles, where as many more have other columns."""
    sets = len(tables.sets_of(runs))
    return max(1, cdiv(AT_ONCE * devices.multiprocessors(device), columns * sets))


def forward(kernels, found, layer, runs, x, weights, out):
    own, constants = found
    columns = layer.groups * cdiv(layer.out_channels // layer.groups, own.columns)
    walked = tiles.walked(runs, layer, own, _programs(out.device, columns, runs), out.device)
    kernels.launch(
        out.device,
        kernels.window_forward,
        (len(walked.spans), columns),
        x,
        weights.packed,
        weights.bias,
        out,
        tables.runs_on(runs, out.device),
        walked.tiles,
        walked.spans,
        layer.slope,
        **constants,
    )


def input_grad(kernels, found, layer, slope, runs, grad_out, weights, saved, map_grads, matching, grad_in):
    own, constants = found
    device, columns = grad_in.device, layer.groups * cdiv(layer.in_channels // layer.groups, own.columns)
    walked = tiles.walked_phases(runs, layer, own, _programs(device, columns, runs), device)
    kernels.launch(
        device,
        kernels.window_input_grad,
        (len(walked.spans), columns),
        grad_out,
        weights.packed,
        saved,
        aligned(map_grads),
        matching,
        grad_in,
        tables.runs_on(runs, device),
        walked.tiles,
        walked.spans,
        slope,
        **constants,
    )


def weight_grad(kernels, found, layer, runs, x, grad_out, weights):
    own, constants = found
    device, group = grad_out.device, layer.in_channels // layer.groups
    columns = layer.groups * cdiv(layer.out_channels // layer.groups, own.columns)
    programs = columns, cdiv(layer.taps, own.taps) * cdiv(group, own.channels)
    splits = tiles.splits(runs, layer, own, splits_of_a_set(layer, runs, programs, x, grad_out), device)
    sums = Sums.empty(layer, len(splits.table), splits.of_set, device)
    kernels.launch(
        device,
        kernels.window_weight_grad,
        (len(splits.table), *programs),
        x,
        grad_out,
        sums.partial,
        sums.bias,
        tables.runs_on(runs, device),
        splits.tiles,
        splits.table,
        **constants,
    )
    return sums


LAUNCHES = {"forward": forward, "input_grad": input_grad, "weight_grad": weight_grad}


def stand_in(kernels, direction, role, layer, like):
    """As `gpu.kernels.Kernels.stand_in`, by the window kernels among `kernels`."""
    found = role == "conv" and launched(direction, layer, like)
    return functools.partial(LAUNCHES[direction], kernels, found) if found else None
