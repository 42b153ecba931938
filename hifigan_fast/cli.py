"""The command line: hifigan-fast train | synthesize | bench | estimate | check | convert | tune | warm | info."""

import argparse
import re
import signal
import sys

from .arguments import Parser, positive
from .layouts import LAYOUTS
from .training import command as train_command
from .version import __version__


def _command(commands, name, run, help, examples):
    command = commands.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_train(commands):
    command = commands.add_parser("train", help="train a HiFi-GAN vocoder")
    train_command.add_arguments(command)
    command.set_defaults(run=train_command.run)


def _add_synthesize(commands):
    command = commands.add_parser("synthesize", help="make wavs of wavs or mels with a trained generator")
    train_command.add_synthesis_arguments(command)
    command.set_defaults(run=train_command.run_synthesis)


def _bench(args):
    from .bench import command

    if args.compare:
        return command.compare(*args.compare)
    names = "workload", "steps", "repeats", "rivals", "full", "device", "verbose"
    settings = {name: getattr(args, name) for name in names}
    settings |= {"batch": args.batch_size, "length": args.segment, "budget": args.scaling}
    return command.run(args.data, args.out, files={kind: getattr(args, kind) for kind in command.FILES}, **settings)


def _add_bench(commands):
    command = _command(
        commands,
        "bench",
        _bench,
        "check parity, then compare the speed with plain PyTorch on this machine",
        "  hifigan-fast bench\n  hifigan-fast bench --full --html report.html\n"
        "  hifigan-fast bench --workload vits --rivals original channels_last\n"
        "  hifigan-fast bench --steps v1 v2 --scaling\n"
        "  hifigan-fast bench --data LJSpeech-1.1/wavs --batch-size 8 --out bench-8\n"
        "  hifigan-fast bench --compare bench-out/bench.json bench-8/bench.json",
    )
    workloads = ("hifigan", "vits", "rvc", "bigvgan")
    steps = ("forward", "discriminator", "generator", "v1", "v2", "v3")
    rivals = (
        "original",
        "frozen",
        "channels_last",
        "compile",
        "bf16",
        "no_tf32",
        "no_benchmark",
        "graph",
        "bf16_graph",
    )
    add = command.add_argument
    add("--workload", choices=workloads, default=workloads[0], help="whose discriminators; default %(default)s")
    add(
        "--steps",
        nargs="+",
        choices=steps,
        metavar="STEP",
        help=f"of {', '.join(steps)} (trainings with that generator)",
    )
    add(
        "--rivals",
        nargs="+",
        choices=rivals,
        metavar="WAY",
        help=f"PyTorch's ways, of {', '.join(rivals)}; the last four on a GPU",
    )
    add("--data", metavar="DIR", help="folder of wavs; default: synthetic voice; memory and --scaling are of that")
    add("--batch-size", metavar="N", type=positive, help="default: the workload's; on a CPU 4 or less")
    add("--segment", metavar="N", type=positive, help="samples; default: the workload's")
    add("--device", metavar="NAME", help="cpu, cuda or cuda:N; default: cuda where there is one")
    add("--repeats", metavar="N", type=positive, help="of each way; default: 3, with --full 5; on a GPU 20 and 50")
    add("--full", action="store_true", help="every backend, step and way, more often, and peak memory: long on a CPU")
    scaling = "how time grows with batch, segment, periods, threads; a point takes up to so many seconds: %(const)s"
    add("--scaling", nargs="?", metavar="SECONDS", type=positive, const=60, help=scaling)
    add("--out", metavar="DIR", default="bench-out", help="folder of the results; default %(default)s")
    for kind, what in (("json", "figures"), ("figure", "bars, a .png or .svg"), ("html", "report")):
        add(f"--{kind}", metavar="FILE", help=f"the {what}; default: in --out")
    compared = "what changed between two bench.json, or folders of several runs; nothing is measured"
    add("--compare", nargs=2, metavar=("OLD", "NEW"), help=compared)
    add("--verbose", action="store_true", help="a line for each class of outputs of a backend")


def _estimate(args):
    from .bench import estimate

    names = "config", "steps", "precision", "device", "repeats", "device_model"
    return estimate.run(batch=args.batch_size, **{name: getattr(args, name) for name in names})


def _add_estimate(commands):
    command = _command(
        commands,
        "estimate",
        _estimate,
        "time a few real training steps with and without this package, and say how long a training takes",
        "  hifigan-fast estimate --config v1 --batch-size 16 --steps 2500000\n  hifigan-fast estimate --config v2\n"
        "  hifigan-fast estimate --device-model h200 --precision bf16",
    )
    add = command.add_argument
    add("--config", metavar="NAME", default="v1", help="v1, v2, v3 or a JSON file; default %(default)s")
    add("--steps", metavar="N", type=positive, default=2_500_000, help="of the training; default %(default)s")
    add("--batch-size", metavar="N", type=positive, help="default: the configuration's")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="default %(default)s")
    add("--repeats", metavar="N", type=positive, default=3, help="timed steps of each; default %(default)s")
    add = command.add_mutually_exclusive_group().add_argument
    add("--device", metavar="NAME", help="cpu, cuda or cuda:N; default: cuda where there is one")
    gpus = ("t4", "a100", "4090", "h100", "h200", "b200", "5090")
    add(
        "--device-model", metavar="GPU", choices=gpus, help=f"nothing is timed: a model's figures, of {', '.join(gpus)}"
    )


def _check(args):
    import torch

    from . import dispatch, parity
    from .bench.gate import gate

    able = parity.able()
    for name, backend in dispatch.BACKENDS.items():
        if name not in able:
            print(f"{name}: not judged: {dispatch.refusal(backend, torch.device('cpu'), torch.float32)}")
    _, passed = gate(verbose=args.verbose, batch=args.batch_size, length=args.segment)
    print("parity ok" if passed else f"parity FAILED: a ratio is above {parity.LIMIT}")
    return 0 if passed else 1


def _add_check(commands):
    command = _command(
        commands,
        "check",
        _check,
        "hold every backend that can run here against float64, and print the worst error ratios",
        "  hifigan-fast check\n  hifigan-fast check --batch-size 2 --segment 4096",
    )
    add = command.add_argument
    add("--batch-size", metavar="N", type=positive, default=1, help="default %(default)s")
    add("--segment", metavar="N", type=positive, default=8192, help="samples; default %(default)s")
    add("--verbose", action="store_true", help="a line for each class of outputs of a backend")


def _convert(args):
    from .layouts import convert_file

    print(f"converted {', '.join(convert_file(args.source, args.target, args.to))}: {args.target}")
    return 0


def _add_convert(commands):
    command = _command(
        commands,
        "convert",
        _convert,
        "rename the discriminators' tensors of a checkpoint as another project names them",
        "  hifigan-fast convert do_02500000 do_coqui.pth --to coqui\n  hifigan-fast convert D_0.pth D.pth --to jik876",
    )
    add = command.add_argument
    add("source", metavar="IN", help="a state dict, or a dict of several, as torch.save writes it")
    add("target", metavar="OUT", help="the new file; what is no discriminator is copied")
    add("--to", required=True, choices=LAYOUTS, help="the layout; those of IN are recognised")


def _tune(args):
    import torch

    from .dispatch import BACKENDS

    device = torch.device("cuda")
    reason = BACKENDS["triton"].cannot_run(device, torch.float32) if torch.cuda.is_available() else "no GPU"
    if reason:
        raise ValueError(f"device: cannot tune here: {reason}")
    from .tuning import command

    return command.run(args.out, args.quick, args.arithmetic)


def _add_tune(commands):
    command = _command(
        commands,
        "tune",
        _tune,
        "measure the Triton kernels' configurations on this GPU, and keep the fastest for it",
        "  hifigan-fast tune --quick\n  hifigan-fast tune --arithmetic half --out configs.json",
    )
    add = command.add_argument
    add("--quick", action="store_true", help="which layers are faster by others than Triton: a minute, not several")
    kinds = ["half", "tf32", "float32"]
    add("--arithmetic", nargs="+", choices=kinds, default=kinds, help="what maps are multiplied in; default: all")
    add("--out", metavar="FILE", help="write the whole table, too")


def _warm(args):
    from . import warm

    return warm.run(args.target, args.precision, args.out, args.source)


def _add_warm(commands):
    command = _command(
        commands,
        "warm",
        _warm,
        "compile the kernels of a training run ahead, also for a GPU that is not there",
        "  hifigan-fast warm\n  hifigan-fast warm --target sm_90 --out kernels.zip\n"
        "  hifigan-fast warm --from kernels.zip           on the machine that trains, before it does",
    )
    add = command.add_argument
    add("--target", metavar="NAME", help="sm_90, say, for a GPU of capability 9.0; default: this one's")
    add("--precision", nargs="+", choices=["fp32", "bf16", "fp16"], default=["bf16", "fp32"], help="default: bf16 fp32")
    add("--out", metavar="FILE", help="a zip file of the kernels, for machines of the same versions")
    add("--from", dest="source", metavar="FILE", help="unpack such a file into the kernels' caches instead")


def _info(args):
    from . import info

    print(info.report(args.verbose))
    return 0


def _add_info(commands):
    command = _command(
        commands,
        "info",
        _info,
        "print versions, devices and what this installation can run",
        "  hifigan-fast info\n  hifigan-fast info --verbose",
    )
    add = command.add_argument
    add("--verbose", action="store_true", help="a line for each dtype of a backend")


COMMANDS = {
    "train": _add_train,
    "synthesize": _add_synthesize,
    "bench": _add_bench,
    "estimate": _add_estimate,
    "check": _add_check,
    "convert": _add_convert,
    "tune": _add_tune,
    "warm": _add_warm,
    "info": _add_info,
}


def _parser():
    parser = Parser(
        prog="hifigan-fast",
        description="HiFi-GAN's discriminators, several times faster; and the training around them.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar=" | ".join(COMMANDS))
    for add in COMMANDS.values():
        add(commands)
    return parser


# Of a RuntimeError: PyTorch's on a CPU, for sizes that overflow, and torch.OutOfMemoryError on a GPU.
NO_MEMORY = re.compile("allocate memory|enough memory|out of memory|size calculation overflowed", re.I)


def _too_large(args, error):
    """What to do where there is no memory for what was asked, in a line."""
    flags = {name: getattr(args, name) for name in ("batch_size", "segment") if name in args}
    spelled = {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
    asked = "".join(f" {flag} {value}" for flag, value in spelled.items() if value)
    cure = f"; take a smaller {' or '.join(spelled)}" if spelled else ""
    why = str(error).partition("\n")[0]
    return f"not enough memory{asked and f' for{asked}'}{why and f' ({why})'}{cure}"


def main(argv=None):
    """Entry point -> exit status: 0, 1 where parity fails, 2 for an error in a line, 128 + a signal that ended it."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        named = isinstance(error, OSError) and error.filename is not None
        print(f"error: {error.filename}: {error.strerror}" if named else f"error: {error}", file=sys.stderr)
        return 2
    except (MemoryError, OverflowError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not NO_MEMORY.search(str(error)):
            raise
        print(f"error: {_too_large(args, error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
