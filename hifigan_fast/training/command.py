"""`hifigan-fast train`: its flags, and the call of the loop."""

import argparse
import sys

EPILOG = """\
examples:
  hifigan-fast train --data LJSpeech-1.1 --out runs/v1                    the paper's V1 until step 2,500,000
  hifigan-fast train --data wavs --out runs/v2 --config v2 --steps 300    a first look
  hifigan-fast train --out runs/try --config v2 --batch-size 2 --steps 20 without data: on synthetic voice
  hifigan-fast train --data wavs --out runs/ft --fine-tune mels           on mels/<name>.npy of each wavs/<name>.wav
  torchrun --nproc-per-node 4 -m hifigan_fast.cli train --data wavs --out runs/v1     four GPUs

The same command again resumes after the newest complete checkpoint in --out.
"""


def positive(text):
    """The type of a flag that counts."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def add_arguments(parser):
    """Add the flags of `hifigan-fast train` to an argparse parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Train a HiFi-GAN vocoder; interrupted runs resume."
    parser.epilog = EPILOG
    add = parser.add_argument
    add(
        "--data",
        metavar="DIR",
        help="folder of mono wavs, or with training.txt and validation.txt; default: synthetic voice",
    )
    add("--out", metavar="DIR", required=True, help="folder for checkpoints, metrics and TensorBoard logs")
    add("--config", metavar="NAME", default="v1", help="v1, v2, v3 or a JSON file with the original's keys; default v1")
    add(
        "--batch-size",
        metavar="N",
        type=positive,
        help="segments a step over all processes; default: the configuration's",
    )
    add(
        "--steps",
        metavar="N",
        type=int,
        default=2_500_000,
        help="total steps, resumed ones included; default %(default)s",
    )
    add(
        "--checkpoint-interval",
        metavar="N",
        type=int,
        default=5000,
        help="steps between checkpoints; default %(default)s",
    )
    add(
        "--validation-interval",
        metavar="N",
        type=int,
        default=1000,
        help="steps between validations; default %(default)s",
    )
    add("--log-interval", metavar="N", type=int, default=10, help="steps between loss reports; default %(default)s")
    add("--device", metavar="NAME", help="cpu, cuda or cuda:N; default: cuda where there is one")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast in the networks; default fp32")
    add("--cuda-graph", action="store_true", help="replay steps as a CUDA graph: for small batches on one GPU")
    add("--discriminators", choices=["fast", "reference"], default="fast", help="which implementation; default fast")
    add("--seed", metavar="N", type=int, help="of parameters, order and crops; default: the configuration's")
    add(
        "--fine-tune",
        metavar="MELS_DIR",
        help="train on the mels of this folder, <name>.npy a wav, not on computed ones",
    )
    add("--workers", metavar="N", type=int, help="processes that read wavs; default: the configuration's num_workers")


def run(args):
    """Run the parsed command. Returns the exit status; bad input raises ValueError, TypeError or OSError."""
    from .config import load_config
    from .loop import Schedule, train

    flags = {"batch_size": args.batch_size, "seed": args.seed, "num_workers": args.workers}
    config = load_config(args.config, **{key: value for key, value in flags.items() if value is not None})
    schedule = Schedule(args.steps, args.checkpoint_interval, args.validation_interval, args.log_interval)
    try:
        train(
            config,
            args.data,
            args.out,
            schedule,
            device=args.device,
            precision=args.precision,
            discriminators=args.discriminators,
            cuda_graph=args.cuda_graph,
            fine_tune=args.fine_tune,
        )
    except KeyboardInterrupt:
        print(f"interrupted; the same command resumes from the newest checkpoint in {args.out}", file=sys.stderr)
        return 130
    return 0
