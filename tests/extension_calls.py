"""Right calls of the extension's entry points, for tests to make wrong, or to run on odd memory."""

from dataclasses import replace

import torch

from hifigan_fast.backends import cpu
from hifigan_fast.geometry import Layer, Run, run_table

lib, reason = cpu.extension()
LAYERS = {"stem": Layer(1, 8, 5, 3, 2), "conv": Layer(4, 6, 5, 2, 2, 2), "head": Layer(8, 1, 3, 1, 1)}
DTYPES = [torch.float32, torch.bfloat16]
ENTRIES = ["forward", "input_grad", "stem_input_grad", "weight_grad"]


def conv(layer):
    return lib.Conv(
        layer.in_channels, layer.out_channels, layer.taps, layer.stride, layer.padding, layer.groups, layer.slope
    )


span, maps = cpu.span, cpu.dtype_of


def spans(value):
    """(address, elements) anywhere in an argument, as spans of float32."""
    if isinstance(value, tuple) and all(isinstance(number, int) for number in value):
        return lib.Span(*value, lib.Dtype.float32)
    return type(value)(map(spans, value)) if isinstance(value, (list, tuple)) else value


def runs_of(layer, *sizes, role="conv"):
    """Runs one behind the other, each of (set, samples, period, in_rows)."""
    runs, ins, outs = [], 0, 0
    for weights, samples, period, in_rows in sizes:
        rows = -(-in_rows // period) if role == "stem" else in_rows
        runs.append(Run(weights, samples, period, in_rows, layer.out_rows(rows), ins, outs, ins, outs))
        ins += samples * in_rows * (1 if role == "stem" else period)
        outs += samples * period * runs[-1].out_rows
    return runs


class Call:
    """A right call of each entry point, on buffers of exactly the size that it needs; results are full of NaN."""

    def __init__(self, role="conv", layer=None, sizes=((0, 2, 3, 20),), sets=1, dtype=torch.float32):
        self.role, self.layer, self.dtype = role, layer or LAYERS[role], dtype
        layer, self.runs = self.layer, runs_of(self.layer, *sizes, role=role)
        ins = sum(r.samples * r.in_rows * (1 if role == "stem" else r.period) for r in self.runs) * layer.in_channels
        outs = sum(r.sequences * r.out_rows for r in self.runs) * layer.out_channels
        random = torch.Generator().manual_seed(0)
        shape = (layer.out_channels, layer.in_channels // layer.groups, layer.taps)
        self.x = torch.randn(ins, generator=random).to(torch.float32 if role == "stem" else dtype)
        self.grad_out = torch.randn(outs, generator=random).to(dtype)
        self.raw = [torch.randn(shape, generator=random) for _ in range(sets)]
        self.scale, self.norm = (
            [torch.rand(shape[:1], generator=random) + 0.5 for _ in range(sets)] for _ in ("scale", "norm")
        )
        self.bias = torch.randn(sets, layer.out_channels, generator=random)
        nan = float("nan")
        self.out, self.grad_in = torch.full((outs,), nan, dtype=dtype), torch.full((ins,), nan, dtype=dtype)
        self.grad_waves, self.grad_bias = torch.zeros(ins), torch.full((sets, layer.out_channels), nan)
        self.grad_raw = [torch.full(shape, nan) for _ in range(sets)]
        self.inner = [torch.full(shape[:1], nan) for _ in range(sets)]

    def arguments(self, entry):
        head = {"maps": maps(self.dtype), "role": getattr(lib.Role, self.role), "conv": conv(self.layer)}
        common = {**head, "runs": run_table(self.runs)}
        weights = [(span(raw), span(scale)) for raw, scale in zip(self.raw, self.scale)]
        x, grad_out, out, grad_in = span(self.x), span(self.grad_out), span(self.out), span(self.grad_in)
        every_other = [norm if i % 2 else None for i, norm in enumerate(self.norm)]
        grads = [
            (span(norm), span(raw), span(inner)) for norm, raw, inner in zip(every_other, self.grad_raw, self.inner)
        ]
        return {
            "forward": {**common, "x": x, "weights": weights, "bias": span(self.bias), "out": out, "threads": 1},
            "input_grad": {
                **head,
                "slope": 0.1,
                "runs": common["runs"],
                "grad_out": grad_out,
                "weights": weights,
                "saved": x,
                "map_grads": [None] * len(self.runs),
                "matching": [],
                "grad_in": grad_in,
                "threads": 1,
            },
            "stem_input_grad": {
                **{k: common[k] for k in ("maps", "conv", "runs")},
                "grad_out": grad_out,
                "weights": weights,
                "grad_waves": span(self.grad_waves),
                "threads": 1,
            },
            "weight_grad": {
                **common,
                "x": x,
                "grad_out": grad_out,
                "weights": weights,
                "grad_weights": grads,
                "grad_bias": span(self.grad_bias),
                "threads": 1,
            },
        }[entry]

    def run(self, entry, run=None, **changes):
        """Calls `entry` with changed fields of the first `run`, and changed arguments; returns what it wrote."""
        arguments = self.arguments(entry)
        assert changes.keys() <= arguments.keys()
        if run:
            arguments["runs"] = run_table([replace(self.runs[0], **run), *self.runs[1:]])
        getattr(lib, entry)(*{**arguments, **{k: spans(v) for k, v in changes.items()}}.values())
        return {
            "forward": [self.out],
            "input_grad": [self.grad_in],
            "stem_input_grad": [self.grad_waves],
            "weight_grad": [*self.grad_raw, *self.inner, self.grad_bias],
        }[entry]


RIGHT = [
    (role, entry)
    for role in LAYERS
    for entry in ENTRIES
    if entry in ("forward", "weight_grad") or (entry == "stem_input_grad") == (role == "stem")
]
