"""How a convolution is cut into tiles on an NVIDIA device: block sizes and shared memory by target, kind and layer.

A *chunk* is 16 bytes of channels. A *window* has a slot for each input row that a tile's taps read (csrc/cuda).
"""

import functools
import itertools
from dataclasses import asdict, dataclass, replace

# KiB of shared memory that a program may have, by compute capability.
SHARED = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
SUMS = {True: 160, False: 64}  # of a thread of a weight gradient, by whether matrix units add them up
SEQUENCES = 4, 32  # that begin within a tile before it has fewer rows: at least, and where memory is left


def _up(number, step):
    return -(-number // step) * step


def chunk_size(kind):
    """Elements of a chunk."""
    return 4 if kind in ("float32", "tf32") else 8


@dataclass(frozen=True)
class Blocks:
    """One program's part: `rows` × `columns` results at a time; of a weight gradient out channels, summed over `rows`.

    Attributes:
        channels: of a window.
        taps: of a stage of weights; of a weight gradient, that one program has.
        stages: buffers of weights (one: they stay); of a weight gradient, of rows.
        windows: buffers.
        slots: rows of a window.
        warps_down, warps_along: how warps share the results.
        warpgroups: whether four of them together ask the matrix units for a product, as on 9.0 only (`wgmma`).
    """

    rows: int
    columns: int
    channels: int
    taps: int
    stages: int
    windows: int
    slots: int
    warps_down: int
    warps_along: int
    warpgroups: bool = False

    @property
    def threads(self):
        return 32 * self.warps_down * self.warps_along

    def constants(self):
        """As the sources name them."""
        named = {name.upper(): number for name, number in asdict(self).items()}
        return named | {"TAPS_AT_ONCE": named.pop("TAPS"), "THREADS": self.threads}


def gap(step, taps):
    """Slots that a sequence which begins within a tile shifts the others by: as `Window::GAP`."""
    grain = 8 * (step & -step)
    return _up(max(0, taps - step), grain)


def _window_bytes(blocks, kind):
    return _up(blocks.slots * (blocks.channels // chunk_size(kind)), 8) * 16


def shared_bytes(direction, blocks, kind):
    """What the source of a direction ("forward", "input_grad", "weight_grad") says too."""
    size = 16 // chunk_size(kind)
    window = _window_bytes(blocks, kind)
    if direction == "weight_grad":
        stage = window + blocks.rows * blocks.columns * size + 4 * blocks.rows
        return blocks.stages * _up(stage, 1024 if blocks.warpgroups else 16)
    return blocks.windows * window + blocks.stages * blocks.columns * blocks.taps * blocks.channels * size


def _widest(kind):
    """Columns of a dense layer's programs, of which a multiprocessor holds one."""
    return 64 if kind == "float32" else 128


def _width(channels, least, most):
    """A power of two that has them, within limits."""
    return min(most, max(least, 1 << (channels - 1).bit_length()))


def _slots(rows, step, taps):
    """Of a window for so many rows, and the fewest sequences that begin within them."""
    return rows * step + SEQUENCES[0] * gap(step, taps)


def _group(layer):
    """Channels of a group, that it reads and that it makes."""
    return layer.in_channels // layer.groups, layer.out_channels // layer.groups


def _walk(direction, layer):
    """Of a forward pass or an input gradient: channels of a group that it reads and makes, rows from one result to the
    next, taps."""
    source, results = _group(layer)
    if direction == "forward":
        return source, results, layer.stride, layer.taps
    return results, source, 1, -(-layer.taps // layer.stride)


def _walked(direction, layer, kind, rows, most, stages):
    """A forward pass's or an input gradient's blocks, with windows of `most` chunks; None where they make no sense."""
    chunk, (source, results, step, taps) = chunk_size(kind), _walk(direction, layer)
    columns = _width(results, 16 if chunk == 4 else 8, _widest(kind))
    along = 2 if columns == _widest(kind) else 1
    channels = min(_up(source, chunk), most * chunk)
    parts, stay = -(-source // channels), stages == 1
    # Of a stage as many chunks that a warp has 128 products by matrix units, or 64.
    at_once = taps if stay else 1 if parts > 1 else min(taps, max(1, max(8, 512 // columns) * chunk // channels))
    if (stay and parts > 1) or (not stay and stages > max(2, -(-taps // at_once) + 1)):
        return None
    windows = 2 if stay or parts > 1 else 1
    return Blocks(rows, columns, channels, at_once, stages, windows, _slots(rows, step, taps), 4, along)


def _multiplied_by_warpgroups(kind, target, source, results):
    """Whether they can: windows have 64 channels at a time, and results are for more than half of 128 columns."""
    return target == 90 and kind in ("float16", "bfloat16") and source % 64 == results % 8 == 0 and results > 64


def _by_warpgroups(direction, layer, kind, target):
    """The same where warpgroups multiply, best first: the most rows, for which weights are read the fewest times."""
    source, results, step, taps = _walk(direction, layer)
    if not _multiplied_by_warpgroups(kind, target, source, results):
        return
    ways = [(64, 1), *([(32, taps)] if direction == "forward" else []), (32, 1)]  # channels and taps of a stage
    for rows, (channels, at_once), stages in itertools.product((256, 128), ways, (5, 4, 3)):
        if stages - 2 <= taps // at_once:  # a window is copied no later than the stages that are copied ahead of it
            windows = 2 if source > channels else 1
            yield Blocks(rows, 128, channels, at_once, stages, windows, _slots(rows, step, taps), 8, 1, True)


def _summed(layer, kind, rows, stages):
    """A weight gradient's blocks with so many rows at a time and stages."""
    fused, chunk = kind == "float32", chunk_size(kind)
    source, results = _group(layer)
    columns = _width(results, 32 if fused else 16, _widest(kind))
    down = max(1, columns // 64)
    channels = min(_up(source, chunk), 8 * chunk)
    most = max(1, SUMS[not fused] * 256 // columns // channels)
    taps = -(-layer.taps // -(-layer.taps // most))
    return Blocks(rows, columns, channels, taps, stages, 1, _slots(rows, layer.stride, taps), down, 8 // down)


def _summed_by_warpgroups(layer, kind, target):
    """A weight gradient's blocks where two warpgroups multiply, each some taps; none where there is but one."""
    if layer.taps == 1 or not _multiplied_by_warpgroups(kind, target, *_group(layer)):
        return
    taps = -(-layer.taps // -(-layer.taps // 5))
    for rows, stages in ((64, 4), (64, 3), (32, 4), (32, 3)):
        yield Blocks(rows, 128, 64, taps, stages, 1, _slots(rows, layer.stride, taps), 8, 1, True)


def _filled(direction, layer, kind, own, limit):
    """The same with longer windows where bytes of shared memory are left; of wide programs only, which are alone."""
    if own.columns < _widest(kind):
        return own
    step, taps = (layer.stride, own.taps) if direction == "weight_grad" else _walk(direction, layer)[2:]
    buffers = own.stages if direction == "weight_grad" else own.windows
    each = buffers * own.channels * 16 // chunk_size(kind)
    left = (limit - shared_bytes(direction, own, kind)) // each // 8 * 8
    more = (SEQUENCES[1] - SEQUENCES[0]) * gap(step, taps)
    return replace(own, slots=own.slots + min(left, more))


@functools.cache
def blocks_of(direction, layer, kind, target):
    """The `Blocks` of a layer.

    Args:
        direction: "forward", "input_grad" or "weight_grad".
        kind: "float32", "tf32", "float16" or "bfloat16".
        target: a key of `SHARED`.

    Raises:
        ValueError: a layer whose taps do not fit.
    """
    if direction == "weight_grad":
        tries = [*_summed_by_warpgroups(layer, kind, target)]
        tries += [_summed(layer, kind, *size) for size in ((64, 3), (32, 3), (16, 3), (16, 2))]
    else:
        stages = (8, 1), (8, 4), (8, 3), (4, 4), (4, 3), (4, 2), (2, 2)
        sizes = ((rows, *rest) for rows, rest in itertools.product((256, 128, 64), stages))
        tries = [*_by_warpgroups(direction, layer, kind, target)]
        tries += [own for size in sizes if (own := _walked(direction, layer, kind, *size))]
    two = (SHARED[target] + 1) // 2 - 1  # KiB of each of two programs that a multiprocessor holds at once
    for least in (256, 0):
        for own in tries:
            limit = SHARED[target] if own.threads >= least else two
            if shared_bytes(direction, own, kind) <= 1024 * limit:
                return _filled(direction, layer, kind, own, 1024 * limit)
    raise ValueError(f"layer: {layer.taps} taps do not fit into {SHARED[target]} KiB of shared memory, got {layer}")
