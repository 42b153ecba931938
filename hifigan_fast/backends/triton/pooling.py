"""The waveforms of all scales: each average-pooled from the last one, AvgPool1d(4, 2, padding=2), its zeros counted."""

import triton
import triton.language as tl

from .pointers import pick


@triton.jit
def _once(x, at, live, length):
    """The mean of four places of x around `at`, zeros outside."""
    total = tl.zeros(at.shape, tl.float32)
    for i in tl.static_range(4):
        place = 2 * at - 2 + i
        total += tl.load(x + place, live & (place >= 0) & (place < length), other=0.0).to(tl.float32)
    return total * 0.25


@triton.jit(do_not_specialize=["length", "length_once"])
def pooled(
    sides,  # a waveform batch each
    out,
    tiles,  # [tile] of (side, where the sample lies, level, first place, where the level's sample lies)
    length,
    length_once,
    BLOCK: tl.constexpr,
):
    """BLOCK places of one sample at one level: the waveform itself, pooled once, or twice."""
    tile = tiles + 5 * tl.program_id(0)
    x = pick(sides, tl.load(tile)) + tl.load(tile + 1)
    level = tl.load(tile + 2)
    at = tl.load(tile + 3).to(tl.int32) + tl.arange(0, BLOCK)
    length_twice = length_once // 2 + 1
    own = tl.where(level == 0, length, tl.where(level == 1, length_once, length_twice))
    live = at < own
    if level == 0:
        value = tl.load(x + at, live, other=0.0).to(tl.float32)
    elif level == 1:
        value = _once(x, at, live, length)
    else:
        value = tl.zeros([BLOCK], tl.float32)
        for i in tl.static_range(4):
            place = 2 * at - 2 + i
            value += _once(x, place, live & (place >= 0) & (place < length_once), length)
        value *= 0.25
    tl.store(out + tl.load(tile + 4) + at, value.to(out.dtype.element_ty), live)
