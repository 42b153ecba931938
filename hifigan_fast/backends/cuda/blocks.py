"""How a convolution is cut into tiles on an NVIDIA device: block sizes and shared memory by target, kind and layer.

A *chunk* is 16 bytes of channels. A *window* has a slot for each input row that a tile's taps read (csrc/cuda).
"""

import functools
from dataclasses import asdict, dataclass

# KiB of shared memory that a program may have, by compute capability.
SHARED = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
SUMS = {True: 160, False: 64}  # of a thread of a weight gradient, by whether matrix units add them up
SEQUENCES = 4  # that begin within a tile before it has fewer rows


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
        return blocks.stages * (window + blocks.rows * blocks.columns * size + _up(4 * blocks.rows, 16))
    return blocks.windows * window + blocks.stages * blocks.columns * blocks.taps * blocks.channels * size


def _width(channels, least, most):
    """A power of two that has them, within limits."""
    return min(most, max(least, 1 << (channels - 1).bit_length()))


def _walked(direction, layer, kind, rows, resident):
    """A forward pass's or an input gradient's blocks with so many rows."""
    forward, fused, chunk = direction == "forward", kind == "float32", chunk_size(kind)
    group = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    source, results = group if forward else group[::-1]
    step, taps = (layer.stride, layer.taps) if forward else (1, -(-layer.taps // layer.stride))
    columns = _width(results, 16 if fused or chunk == 4 else 8, 64 if fused else 128)
    along = 2 if columns >= (64 if fused else 128) else 1
    channels = min(_up(source, chunk), 4 * chunk if source > 8 * chunk else 8 * chunk)
    at_once = taps if resident else min(taps, max(1, 8 * chunk // channels))
    steps, parts = -(-taps // at_once), -(-source // channels)
    if resident and parts > 1:
        return None
    stages = 1 if resident else 2 if steps == 1 else min(4, steps + 1)
    windows = 2 if resident or parts > 1 else 1
    slots = rows * step + SEQUENCES * gap(step, taps)
    return Blocks(rows, columns, channels, at_once, stages, windows, slots, 4 // along, along)


def _summed(layer, kind, rows):
    """A weight gradient's blocks with so many rows at a time."""
    fused, chunk = kind == "float32", chunk_size(kind)
    source, results = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    columns = _width(results, 32 if fused else 16, 64 if fused else 128)
    down = max(1, columns // 64)
    channels = min(_up(source, chunk), 8 * chunk)
    most = max(1, SUMS[not fused] * 256 // columns // channels)
    taps = -(-layer.taps // -(-layer.taps // most))
    slots = rows * layer.stride + SEQUENCES * gap(layer.stride, taps)
    return Blocks(rows, columns, channels, taps, 3, 1, slots, down, 8 // down)


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
    limit = 1024 * SHARED[target]
    if direction == "weight_grad":
        tries = [_summed(layer, kind, rows) for rows in (64, 32, 16)]
    else:
        most = 256 if min(layer.in_channels, layer.out_channels) // layer.groups <= 64 else 128
        sizes = [rows for rows in (256, 128, 64) if rows <= most]
        tries = [_walked(direction, layer, kind, rows, resident) for resident in (True, False) for rows in sizes]
    for own in tries:
        if own and shared_bytes(direction, own, kind) <= limit:
            return own
    raise ValueError(f"layer: {layer.taps} taps do not fit into {SHARED[target]} KiB of shared memory, got {layer}")
