"""The command line: hifigan-fast train | synthesize | bench | check | convert | tune | warm | info."""

import argparse
import signal
import sys

from .arguments import Parser
from .layouts import LAYOUTS
from .training import command as train_command
from .training.command import positive
from .version import __version__


def _bench(args):
    from . import bench

    return bench.run(args.data, args.out, args.batch_size, args.segment, args.repeats, args.full, args.verbose)


def _check(args):
    from . import bench, parity

    _, passed = bench.gate(verbose=args.verbose, batch=args.batch_size, length=args.segment)
    print("parity ok" if passed else f"parity FAILED: a ratio is above {parity.LIMIT}")
    return 0 if passed else 1


def _tune(args):
    import torch

    from .dispatch import BACKENDS

    device = torch.device("cuda")
    reason = BACKENDS["triton"].cannot_run(device, torch.float32) if torch.cuda.is_available() else "no GPU"
    if reason:
        raise ValueError(f"device: cannot tune here: {reason}")
    from .backends.triton import tune

    return tune.run(args.out)


def _warm(args):
    from . import warm

    return warm.run(args.target, args.precision, args.out, args.source)


def _convert(args):
    from .layouts import convert_file

    print(f"converted {', '.join(convert_file(args.source, args.target, args.to))}: {args.target}")
    return 0


def _info(args):
    from . import info

    print(info.report(args.verbose))
    return 0


def _parser():
    parser = Parser(
        prog="hifigan-fast",
        description="HiFi-GAN's discriminators, several times faster; and the training around them.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    kinds = "train | synthesize | bench | check | convert | tune | warm | info"
    commands = parser.add_subparsers(dest="command", required=True, metavar=kinds)

    train = commands.add_parser("train", help="train a HiFi-GAN vocoder")
    train_command.add_arguments(train)
    train.set_defaults(run=train_command.run)

    synthesize = commands.add_parser("synthesize", help="make wavs of wavs or mels with a trained generator")
    train_command.add_synthesis_arguments(synthesize)
    synthesize.set_defaults(run=train_command.run_synthesis)

    def add(name, run, help, examples):
        command = commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    bench = add(
        "bench",
        _bench,
        "check parity, then compare the speed with plain PyTorch on this machine",
        "  hifigan-fast bench\n  hifigan-fast bench --full\n"
        "  hifigan-fast bench --data LJSpeech-1.1/wavs --batch-size 8 --out bench-8",
    )
    bench.add_argument("--data", metavar="DIR", help="folder of wavs; default: synthetic voice")
    bench.add_argument("--out", metavar="DIR", default="bench-out", help="folder of the results; default %(default)s")
    bench.add_argument("--repeats", metavar="N", type=positive, help="of each pair; default: 3, with --full 5")
    bench.add_argument("--full", action="store_true", help="every backend and step: five minutes on two cores, not two")
    check = add(
        "check",
        _check,
        "hold every backend that can run here against float64, and print the worst error ratios",
        "  hifigan-fast check\n  hifigan-fast check --batch-size 2 --segment 4096",
    )
    for command, batch in ((bench, 4), (check, 1)):
        command.add_argument("--batch-size", metavar="N", type=positive, default=batch, help="default %(default)s")
        command.add_argument("--segment", metavar="N", type=positive, default=8192, help="samples; default %(default)s")
    convert = add(
        "convert",
        _convert,
        "rename the discriminators' tensors of a checkpoint as another project names them",
        "  hifigan-fast convert do_02500000 do_coqui.pth --to coqui\n  hifigan-fast convert D_0.pth D.pth --to jik876",
    )
    convert.add_argument("source", metavar="IN", help="a state dict, or a dict of several, as torch.save writes it")
    convert.add_argument("target", metavar="OUT", help="the new file; what is no discriminator is copied")
    convert.add_argument("--to", required=True, choices=LAYOUTS, help="the layout; those of IN are recognised")
    tune = add(
        "tune",
        _tune,
        "measure the Triton kernels' configurations on this GPU, and write the table",
        "  hifigan-fast tune\n  hifigan-fast tune --out configs.json",
    )
    tune.add_argument("--out", metavar="FILE", help="the table; default: that of this installation")
    warm = add(
        "warm",
        _warm,
        "compile the Triton kernels of a training run ahead, also for a GPU that is not there",
        "  hifigan-fast warm\n  hifigan-fast warm --target sm_90 --out kernels.zip\n"
        "  hifigan-fast warm --from kernels.zip           on the machine that trains, before it does",
    )
    warm.add_argument("--target", metavar="NAME", help="sm_90, say, for a GPU of capability 9.0; default: this one's")
    warm.add_argument(
        "--precision", nargs="+", choices=["fp32", "bf16", "fp16"], default=["bf16", "fp32"], help="default: bf16 fp32"
    )
    warm.add_argument("--out", metavar="FILE", help="a zip file of the kernels, for machines of the same versions")
    warm.add_argument("--from", dest="source", metavar="FILE", help="unpack such a file into Triton's cache instead")
    info = add(
        "info",
        _info,
        "print versions, devices and what this installation can run",
        "  hifigan-fast info\n  hifigan-fast info --verbose",
    )
    for command, what in ((bench, "each class of outputs"), (check, "each class of outputs"), (info, "each dtype")):
        command.add_argument("--verbose", action="store_true", help=f"a line for {what} of a backend")
    return parser


def main(argv=None):
    """Entry point -> exit status: 0, 1 where parity fails, 2 for an error in a line, 128 + a signal that ended it."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
