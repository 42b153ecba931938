"""The stem's gradient of the waveforms, gathered: every sample sums what the runs that read it pass back."""

import triton
import triton.language as tl

from .rows import FIELDS, GRAD_OUT_OFFSET, IN_ROWS, OUT_ROWS, PERIOD, WEIGHTS


@triton.jit
def _passed_back(grad_out, weight, run, sample, at, live, OUT, TAPS, STRIDE, PADDING, BO):
    """[samples]: the gradient of the fold's positions `at`, of waveform `sample`."""
    period, out_rows = tl.load(run + PERIOD).to(tl.int32), tl.load(run + OUT_ROWS).to(tl.int32)
    sequence = sample * period + at % period
    filters = weight + tl.load(run + WEIGHTS) * (OUT * TAPS)
    base = tl.load(run + GRAD_OUT_OFFSET) + sequence.to(tl.int64) * out_rows
    total = tl.zeros(at.shape, tl.float32)
    for tap in range(TAPS):
        reached = at // period + PADDING - tap
        row = reached // STRIDE
        inside = live & (reached >= 0) & (reached % STRIDE == 0) & (row < out_rows)
        for first in range(0, OUT, BO):
            o = first + tl.arange(0, BO)
            grad = tl.load(
                grad_out + ((base + row) * OUT)[:, None] + o[None, :], inside[:, None] & (o < OUT)[None, :], other=0.0
            )
            by = tl.load(filters + o * TAPS + tap, o < OUT, other=0.0)
            total += tl.sum(grad.to(tl.float32) * by.to(tl.float32)[None, :], 1)
    return total


@triton.jit
def stem_input_grad(
    grad_out,
    weight,
    grad_waves,
    runs,
    tiles,  # [tile] of (first run, end, sample, first place in the waveform, where the waveform lies)
    OUT: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    BM: tl.constexpr,
    BO: tl.constexpr,
):
    """grad_waves of BM places of one waveform: the sum over the runs first … end - 1, which all read it."""
    tile = tiles + 5 * tl.program_id(0)
    begin, end, sample = tl.load(tile).to(tl.int32), tl.load(tile + 1).to(tl.int32), tl.load(tile + 2).to(tl.int32)
    at = tl.load(tile + 3).to(tl.int32) + tl.arange(0, BM)
    length = tl.load(runs + begin * FIELDS + IN_ROWS).to(tl.int32)
    live = at < length
    total = tl.zeros([BM], tl.float32)
    for index in range(begin, end):
        run = runs + index * FIELDS
        total += _passed_back(grad_out, weight, run, sample, at, live, OUT, TAPS, STRIDE, PADDING, BO)
        # The reflect pad mirrors the samples before the last.
        period = tl.load(run + PERIOD).to(tl.int32)
        mirrored = 2 * (length - 1) - at
        padded = live & (mirrored >= length) & (mirrored < tl.cdiv(length, period) * period)
        if tl.max(padded.to(tl.int32)) > 0:
            total += _passed_back(grad_out, weight, run, sample, mirrored, padded, OUT, TAPS, STRIDE, PADDING, BO)
    tl.store(grad_waves + tl.load(tile + 4) + at, total.to(grad_waves.dtype.element_ty), live)
