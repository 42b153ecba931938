"""The layers of docs/design.md's table, one at a time: ours through the contract, and plain PyTorch's convolution.

python -m benchmarks.layers --layers P1,S1

Both do the same: a forward pass has its bias and leaky ReLU, an input gradient the mask of the layer below, a weight
gradient that of the bias. Ours does the normalisation of the weights besides. Both take the two sides at once, though
the original calls each alone.
"""

import dataclasses
import functools
import statistics
import sys

import torch
import torch.nn.functional as F
from tabulate import tabulate

from hifigan_fast import dispatch
from hifigan_fast.backends.contract import WeightSet, weights_of
from hifigan_fast.bench.timing import interleaved, ratio
from hifigan_fast.discriminators import DiscriminatorP, DiscriminatorS, stack_of
from hifigan_fast.geometry import LRELU_SLOPE, Ensemble
from hifigan_fast.reference import PERIODS

from . import report
from .report import SEGMENT

DIRECTIONS = ("forward", "input gradient", "weight gradient")
CAPTION = (
    "P: the five periods in one call; S: the scale that is not pooled. GFLOP/s and % of peak count the operations of\n"
    "the direct convolution: ours and PyTorch's may use fast algorithms of fewer, and a figure may exceed 100%."
)


@functools.cache
def table():
    """{name: (stacks, depth)}: "P" all five periods, "S" the first scale."""
    period = stack_of(DiscriminatorP(PERIODS[0]))
    found = {}
    for prefix, stacks in (
        ("P", tuple(dataclasses.replace(period, period=p) for p in PERIODS)),
        ("S", (stack_of(DiscriminatorS()),)),
    ):
        found.update({f"{prefix}{depth}": (stacks, depth) for depth in range(len(stacks[0].layers))})
    return found


class LayerCase:
    """One layer's operands, and a callable for each direction and implementation."""

    def __init__(self, name, samples, backend="cpu"):
        stacks, depth = table()[name]
        sets = len(stacks)
        self.backend = dispatch.BACKENDS[backend]
        self.layer = layer = stacks[0].layers[depth]
        ensemble = Ensemble(stacks, (0,) * sets, (SEGMENT,), samples, 1, tuple((i,) for i in range(sets)))
        self.role = ensemble.role(depth)
        members = tuple(ensemble.members)
        self.runs = ensemble.runs(depth, members)
        (_, in_rows), (_, out_rows) = (ensemble.offsets(d, members) for d in (depth, depth + 1))
        self.flops = layer.flops(out_rows)

        random = torch.Generator().manual_seed(0)
        randn = functools.partial(torch.randn, generator=random, dtype=torch.float32, device="cpu")
        self.x = randn(samples * SEGMENT if depth == 0 else in_rows * layer.in_channels)
        self.grad = randn(out_rows * layer.out_channels)
        raws = [randn(layer.out_channels, layer.in_channels // layer.groups, layer.taps) for _ in stacks]
        zeros = raws[0].new_zeros(layer.out_channels)
        own = [WeightSet(raw, randn(layer.out_channels).abs(), None, zeros) for raw in raws]
        (self.weights,) = weights_of((layer,), [own], *self.backend.prepare((layer,), [own], torch.float32))

        ones = [1] if stacks[0].folded else []  # the second dimension of a folded map
        none = [0] * len(ones)
        self.geometry = [layer.stride, *ones], [layer.padding, *none], [1, *ones], False, [0, *none], layer.groups
        self.operands = []  # plain PyTorch's, a stack: input, gradient of the output, weight
        for stack, rows, raw in zip(stacks, ensemble.rows, raws):
            columns = [stack.period] if stack.folded else []
            x = randn(samples, layer.in_channels, rows[depth], *columns)
            grad = randn(samples, layer.out_channels, rows[depth + 1], *columns)
            self.operands.append((x, grad, raw.view(*raw.shape, *ones)))

    def ours(self, direction):
        b, layer, role, runs = self.backend, self.layer, self.role, self.runs

        def forward():
            out = b.empty(self.grad.numel(), torch.float32, "cpu")
            b.forward(role, layer, runs, self.x, self.weights, out)

        def input_grad():
            if role == "stem":
                return b.stem_input_grad(layer, runs, self.grad, self.weights, torch.zeros_like(self.x))
            out = b.empty(self.x.numel(), torch.float32, "cpu")
            no_maps = [None] * len(runs)
            return b.input_grad(role, layer, LRELU_SLOPE, runs, self.grad, self.weights, self.x, no_maps, None, out)

        def weight_grad():
            b.weight_grad(role, layer, runs, self.x, self.grad, self.weights)

        return dict(zip(DIRECTIONS, (forward, input_grad, weight_grad)))[direction]

    def plain(self, direction):
        layer = self.layer

        def backward(x, grad, weight, wanted):
            bias = [layer.out_channels]
            return torch.ops.aten.convolution_backward(grad, x, weight, bias, *self.geometry, wanted)

        def forward():
            for (x, _, weight), bias in zip(self.operands, self.weights.bias):
                y = torch.convolution(x, weight, bias, *self.geometry)
                if layer.slope != 1:
                    F.leaky_relu(y, layer.slope)

        def input_grad():
            for x, grad, weight in self.operands:
                found, _, _ = backward(x, grad, weight, [True, False, False])
                if self.role != "stem":
                    torch.ops.aten.leaky_relu_backward(found, x, LRELU_SLOPE, True)

        def weight_grad():
            for operands in self.operands:
                backward(*operands, [False, True, True])

        return dict(zip(DIRECTIONS, (forward, input_grad, weight_grad)))[direction]


def measure(names, batch, repeats, say=print):
    """Time every direction of the named layers -> (rows of {layer, direction, fast_ms, plain_ms, speedup, …}, peak)."""
    rows, peak = [], 0.0
    for name in names:
        case = LayerCase(name, 2 * batch)
        for direction in DIRECTIONS:
            peak = max(peak, report.peak())  # again and again: the clock moves, and others use the machine
            times = interleaved({"fast": case.ours(direction), "plain": case.plain(direction)}, repeats)
            fast_s, plain_s = times["fast"][1:], times["plain"][1:]
            speedup = ratio(plain_s, fast_s)
            row = {"layer": name, "direction": direction, "gflop": case.flops / 1e9}
            for key, taken in (("fast", fast_s), ("plain", plain_s)):
                row[f"{key}_ms"] = 1e3 * statistics.median(taken)
                row[f"{key}_gflops"] = case.flops / 1e9 / statistics.median(taken)
            row |= {"speedup": speedup["median"], "speedup_range": speedup["range"]}
            rows.append(row)
            say(f"  {name}, {direction}: {row['speedup']:.2f} ×")
    for row in rows:
        row |= {f"{key}_of_peak": 1e9 * row[f"{key}_gflops"] / peak for key in ("fast", "plain")}
    return rows, peak


def shown(rows):
    """The rows as the table that the command prints."""
    keys = ("layer", "direction", "plain_ms", "fast_ms", "speedup")
    lines = [
        (
            *(r[key] for key in keys),
            "{:.2f}–{:.2f}".format(*r["speedup_range"]),
            *(r[f"{key}_gflops"] for key in ("plain", "fast")),
            *(100 * r[f"{key}_of_peak"] for key in ("plain", "fast")),
        )
        for r in rows
    ]
    headers = ["layer", "what", "plain PyTorch,\nms", "hifigan_fast,\nms", "speed-up,\n×", "range"]
    headers += [f"{who},\n{what}" for what in ("GFLOP/s", "% of peak") for who in ("plain PyTorch", "hifigan_fast")]
    return tabulate(lines, headers=headers, floatfmt=("", "", ".2f", ".2f", ".2f", "", ".0f", ".0f", ".0f", ".0f"))


def _names(text):
    names = text.split(",")
    unknown = [name for name in names if name not in table()]
    if unknown:
        raise ValueError(f"--layers: got {', '.join(unknown)}, expected some of {', '.join(table())}")
    return names


def command(args):
    names = _names(args.layers) if args.layers else list(table())
    result = report.conditions(args)
    threads = result["threads"]
    print(f"layers, 2 × {args.batch} × {SEGMENT}, {threads} threads, {args.repeats} interleaved repeats:")
    rows, peak = measure(names, args.batch, args.repeats)
    print(
        f"\n{shown(rows)}\n\nPeak: {peak / 1e9:.0f} GFLOP/s, multiply-adds in registers, {threads} threads.\n{CAPTION}"
    )
    if args.out:
        report.write(args.out, {**result, "peak_gflops": peak / 1e9, "note": CAPTION, "layers": rows})


def main(argv=None):
    parser = report.parser("layers", "Time every layer and direction against plain PyTorch's convolution.", repeats=5)
    report.add_batch(parser)
    parser.add_argument("--layers", metavar="P1,S1,…", help=f"default: {', '.join(table())}")
    return report.run(command, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
