"""What the window kernels of csrc/cuda do on layers of HiFi-GAN's discriminators, counted as they are executed.

python -m tests.ptx.count_windows --kind bfloat16 --target 80 --layers P2 S1
"""

import argparse

from tabulate import tabulate

from hifigan_fast.backends.cuda import blocks
from hifigan_fast.geometry import Layer

from . import windows
from .counters import Counters
from .parse import parse

# Depths of a period's stack and of a scale's; stems and heads are other kernels'.
LAYERS = {
    "P1": Layer(32, 128, 5, 3, 2),
    "P2": Layer(128, 512, 5, 3, 2),
    "P3": Layer(512, 1024, 5, 3, 2),
    "P4": Layer(1024, 1024, 5, 1, 2),
    "S1": Layer(128, 128, 41, 2, 20, 4),
    "S2": Layer(128, 256, 41, 2, 20, 16),
    "S3": Layer(256, 512, 41, 4, 20, 16),
    "S4": Layer(512, 1024, 41, 4, 20, 16),
    "S5": Layer(1024, 1024, 41, 1, 20, 16),
    "S6": Layer(1024, 1024, 5, 1, 2),
}
CONDITIONS = """One sequence of 256 output rows, one group, 128 columns. For each matrix product of a warp (in float32:
multiply-add; a warp's part of a warpgroup's product is 16 of its own) all of its instructions, and those of the
innermost loop."""
HEADERS = ("layer", "direction", "rows × columns", "products", "all / product", "in the loop", "ldmatrix", "KB copied")
HEADERS += ("load a tap, KB", "sectors", "fewest", "phases", "fewest")


def narrowed(layer):
    """One group of it, and no more than a block of its channels: what a program does is the same."""
    most = 128 if layer.groups == 1 else layer.out_channels // layer.groups
    sizes = layer.in_channels // layer.groups, min(most, layer.out_channels)
    return Layer(*sizes, layer.taps, layer.stride, layer.padding)


def counted(name, direction, kind, target, rows=256):
    """A row of the table: one sequence of so many output rows."""
    layer = narrowed(LAYERS[name])
    if direction == "input_grad":
        layer = Layer(min(128, layer.in_channels), LAYERS[name].out_channels // LAYERS[name].groups, *_rest(layer))
    case = windows.Case.of(layer, kind, [(1, (rows - 1) * layer.stride + layer.taps - 2 * layer.padding)])
    counters = Counters()
    session, _ = getattr(windows, direction)(case, target, counters=counters)
    assert not session.faults, str(session.faults)
    own = blocks.blocks_of(direction, layer, kind, target)
    kernel, product = parse(session.texts[-1]), "fma" if kind == "float32" else "wgmma" if own.warpgroups else "mma"
    instructions, loop = counters.instructions(kernel), counters.loop(kernel, product)
    of = "float" if kind == "float32" else "mma"
    products = instructions[of]
    copied, all_global = counters.total(counters.global_, "cp"), counters.total(counters.global_)
    shared = counters.total(counters.shared)
    return (
        name,
        direction,
        f"{own.rows} × {own.columns}",
        products,
        sum(instructions.values()) / products,
        sum(loop.values()) / loop[of],
        loop["ldmatrix"] / loop[of],
        copied.taken * 32 / 1000,
        _by_taps(case, direction, own) / 1000,
        all_global.taken,
        all_global.least,
        shared.taken,
        shared.least,
    )


def _rest(layer):
    return layer.taps, layer.stride, layer.padding


def _by_taps(case, direction, own):
    """Bytes that blocks of 128 × 128 take where each tap's rows are loaded, as Triton's kernels do."""
    layer, size = case.layer, case.x[0].itemsize
    ins, outs, rows = layer.in_channels, layer.out_channels, case.grad[0][..., 0].numel()
    if direction == "weight_grad":
        blocks = -(-outs // 128) * -(-ins * layer.taps // 128)
        return blocks * rows * size * (min(128, outs) + min(128, ins * layer.taps))
    if direction == "input_grad":
        ins, outs, rows = outs, ins, case.x[0][..., 0].numel() / layer.stride
    depth, blocks = layer.taps * ins, -(-rows // 128) * -(-outs // 128)
    return blocks * depth * size * (min(128, rows) + min(128, outs))


def main(argv=None):
    parser = argparse.ArgumentParser(description="Count what the window kernels do, executed on a CPU.")
    parser.add_argument("--kind", choices=windows.DTYPES, default="bfloat16", help="of the maps")
    parser.add_argument("--target", type=int, default=80, help="compute capability")
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS), help="of the discriminators")
    parser.add_argument(
        "--directions", nargs="+", default=["forward", "input_grad", "weight_grad"], help="of the three"
    )
    args = parser.parse_args(argv)
    rows = [counted(name, own, args.kind, args.target) for name in args.layers for own in args.directions]
    print(tabulate(rows, headers=HEADERS, floatfmt=".1f"))
    print(CONDITIONS)


if __name__ == "__main__":
    main()
