"""`hifigan-fast train` and `hifigan-fast synthesize`: their flags, and the calls of the loop and of the synthesis."""

import argparse
import signal
import sys
import time
from pathlib import Path

from ..arguments import positive, whole

EPILOG = """\
examples:
  hifigan-fast train --data LJSpeech-1.1 --out runs/v1                    the paper's V1 until step 2,500,000
  hifigan-fast train --data wavs --out runs/v2 --config v2 --steps 300    a first look
  hifigan-fast train --out runs/try --config v2 --batch-size 2 --steps 20 without data: on synthetic voice
  hifigan-fast train --data wavs --out runs/ft --fine-tune mels           on mels/<name>.npy of each wavs/<name>.wav
  hifigan-fast train --data wavs --out runs/mine --init g_02500000 do_02500000        from a trained pair, at step 0
  torchrun --nproc-per-node 4 -m hifigan_fast.cli train --data wavs --out runs/v1     four GPUs

The same command again resumes after the newest complete checkpoint in --out. Ctrl-C and SIGTERM end the step at
hand and write a checkpoint; a second Ctrl-C stops at once.
"""

SYNTHESIS = """\
examples:
  hifigan-fast synthesize --checkpoint runs/v1/g_00100000 --out heard wavs/*.wav          copy synthesis
  hifigan-fast synthesize --checkpoint g_02500000 --config v1 --out heard mels            of every mels/<name>.npy
"""


def add_arguments(parser):
    """Add the flags of `hifigan-fast train` to an argparse parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Train a HiFi-GAN vocoder; interrupted runs resume."
    parser.epilog = EPILOG
    _add_data(parser.add_argument_group("what is trained"))
    _add_schedule(parser.add_argument_group("how long, and what is kept"))
    _add_machine(parser.add_argument_group("how it runs"))


def _add_data(group):
    add = group.add_argument
    add(
        "--data",
        metavar="DIR",
        help="folder of mono wavs, or with training.txt and validation.txt; default: synthetic voice",
    )
    add(
        "--fine-tune",
        metavar="MELS_DIR",
        help="train on the mels of this folder, <name>.npy a wav, not on computed ones",
    )
    add(
        "--config",
        metavar="NAME",
        help="v1, v2, v3 or a JSON file with the original's keys; default: config.json in --out, else v1",
    )
    add(
        "--batch-size",
        metavar="N",
        type=positive,
        help="segments a step over all processes; default: the configuration's",
    )
    add("--seed", metavar="N", type=whole, help="of parameters, order and crops; default: the configuration's")
    begin = group.add_mutually_exclusive_group()
    begin.add_argument(
        "--init",
        nargs=2,
        metavar=("G", "DO"),
        default=(),
        help="begin with this pair of another run, at step 0; unused where --out has a checkpoint",
    )
    begin.add_argument("--init-generator", metavar="G", help="begin with this generator alone, as --init")


def _add_schedule(group):
    add = group.add_argument
    add("--out", metavar="DIR", required=True, help="folder for checkpoints, metrics and TensorBoard logs")
    add(
        "--steps",
        metavar="N",
        type=whole,
        default=2_500_000,
        help="total steps, resumed ones included; default %(default)s",
    )
    add(
        "--checkpoint-interval",
        metavar="N",
        type=whole,
        default=5000,
        help="steps between checkpoints; default %(default)s",
    )
    add("--keep", metavar="N", type=whole, help="keep the newest N checkpoints only; default: all")
    add("--keep-every", metavar="M", type=whole, help="with --keep: and those of every M-th step")
    add(
        "--validation-interval",
        metavar="N",
        type=whole,
        default=1000,
        help="steps between validations; default %(default)s",
    )
    add("--log-interval", metavar="N", type=whole, default=10, help="steps between loss reports; default %(default)s")
    add(
        "--skip-non-finite",
        metavar="N",
        type=whole,
        default=0,
        help="undo and pass over up to N steps that are not finite, not stop at the first; reads each step's losses at "
        "once, and keeps a copy of all networks and moments",
    )


def _add_machine(group):
    add = group.add_argument
    add("--device", metavar="NAME", help="cpu, cuda or cuda:N; default: cuda where there is one")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast in the networks; default fp32")
    add("--discriminators", choices=["fast", "reference"], default="fast", help="which implementation; default fast")
    add(
        "--cuda-graph",
        action=argparse.BooleanOptionalAction,
        help="replay steps as a CUDA graph; default: in one process on a GPU, as far as a step can be captured",
    )
    add("--workers", metavar="N", type=whole, help="processes that read wavs; default: the configuration's num_workers")


def run(args):
    """Run the parsed command. Returns the exit status, 128 + the number of a signal that ended it.

    Raises what `loop.train` does.
    """
    from .checkpoint import newest_checkpoint
    from .config import load_config
    from .loop import Schedule, train

    flags = {"batch_size": args.batch_size, "seed": args.seed, "num_workers": args.workers}
    saved = Path(args.out) / "config.json"  # a run that is gone on with keeps its own
    config = load_config(
        args.config or (saved if saved.is_file() else "v1"),
        **{key: value for key, value in flags.items() if value is not None},
    )
    schedule = Schedule(
        args.steps,
        args.checkpoint_interval,
        args.validation_interval,
        args.log_interval,
        args.keep,
        args.keep_every,
    )
    try:
        ended_by = train(
            config,
            args.data,
            args.out,
            schedule,
            device=args.device,
            precision=args.precision,
            discriminators=args.discriminators,
            cuda_graph=args.cuda_graph,
            fine_tune=args.fine_tune,
            init=(args.init_generator,) if args.init_generator else args.init,
            skip_non_finite=args.skip_non_finite,
        )
    except KeyboardInterrupt:
        found = newest_checkpoint(args.out)
        after = f"{found[0].name} and {found[1].name} are the newest checkpoint" if found else "there is no checkpoint"
        print(f"\nstopped at once; {after} in {args.out}", file=sys.stderr)
        return 128 + signal.SIGINT
    return 128 + ended_by if ended_by else 0


def add_synthesis_arguments(parser):
    """Add the flags of `hifigan-fast synthesize` to an argparse parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Make wavs of wavs or mels with a trained generator, of any length."
    parser.epilog = SYNTHESIS
    add = parser.add_argument
    add("inputs", metavar="WAV|MEL|DIR", nargs="+", help="mono wavs, log-mels as .npy, or folders of them")
    add("--checkpoint", metavar="G", required=True, help="the generator's file, g_…")
    add("--out", metavar="DIR", required=True, help="folder of the results, <name>.wav each")
    add("--config", metavar="NAME", help="v1, v2, v3 or a JSON file; default: config.json beside the checkpoint")
    add("--device", metavar="NAME", help="cpu, cuda or cuda:N; default: cuda where there is one")


def run_synthesis(args):
    """Run the parsed command. Returns the exit status; raises what `synthesis.synthesize` does."""
    from .synthesis import synthesize

    begun = time.perf_counter()
    try:
        seconds = synthesize(args.checkpoint, args.inputs, args.out, config=args.config, device=args.device)
    except KeyboardInterrupt:
        print(f"\nstopped at once; the files that are in {args.out} are whole", file=sys.stderr)
        return 128 + signal.SIGINT
    took = time.perf_counter() - begun
    print(f"{seconds:.1f} s of audio in {args.out}, in {took:.1f} s: {seconds / took:.1f} × as fast as real time")
    return 0
