"""Show that it trains: writes docs/training.png and docs/training.json.

1. V2 with the fast discriminators: the mel error of the training batches and of the held-out clips against the step.
2. The same seed with the fast and with the reference discriminators: both runs' losses and their relative difference.
   Training is chaotic: a difference of one rounding grows by itself. The control says how fast: the reference again, on
   one thread, which rounds differently and nothing else.

python docs/make_training_figure.py --data DIR
"""

import argparse
import datetime
import json
import platform
import shlex
import sys
import tempfile
from pathlib import Path

import torch

import hifigan_fast
from hifigan_fast.extras import require
from hifigan_fast.training.config import load_config
from hifigan_fast.training.loop import Schedule, train

LOSSES = {"disc_loss": "discriminators", "gen_loss": "generator", "mel_error": "mel error"}


CONTROL = "reference, one thread"


def run(data, batch_size, steps, every, discriminators):
    """Train V2 in a folder that is thrown away; returns the rows it reported."""
    with tempfile.TemporaryDirectory() as folder:
        schedule = Schedule(steps, checkpoint=steps, validation=every, log=1)
        config = load_config("v2", batch_size=batch_size)
        train(config, data, folder, schedule, discriminators=discriminators)
        return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def column(rows, name):
    """The steps that have a value of that name, and the values."""
    pairs = [(row["step"], row[name]) for row in rows if name in row]
    return [list(values) for values in zip(*pairs, strict=True)]


def compare(args):
    """The second experiment: each run's losses, and the relative difference of each to the reference's."""
    losses, threads = {}, torch.get_num_threads()
    for name, kind in (("fast", "fast"), ("reference", "reference"), (CONTROL, "reference")):
        torch.set_num_threads(1 if name == CONTROL else threads)
        rows = run(args.data, args.batch_size, args.compared_steps, args.compared_steps, kind)
        losses[name] = {loss: column(rows, loss)[1] for loss in LOSSES}
    torch.set_num_threads(threads)
    differences = {
        name: {
            loss: [abs(a - b) / abs(b) for a, b in zip(losses[name][loss], losses["reference"][loss], strict=True)]
            for loss in LOSSES
        }
        for name in ("fast", CONTROL)
    }
    return losses, differences


def measure(args):
    """Both experiments' numbers as a JSON object."""
    long_run = run(args.data, args.batch_size, args.steps, args.validation_interval, "fast")
    compared, differences = compare(args)
    names = ("mel_error", "validation_mel_error", "seconds_per_step")
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "versions": {
            "hifigan_fast": hifigan_fast.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
        "batch_size": args.batch_size,
        "training": {name: dict(zip(("step", "value"), column(long_run, name), strict=True)) for name in names},
        "compared": compared,
        "relative_difference": differences,
    }


def draw(numbers, path):
    import matplotlib.pyplot as plt

    figure, (mel, losses, difference) = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    training = numbers["training"]
    mel.plot(*training["mel_error"].values(), color="0.7", label="training batches")
    mel.plot(*training["validation_mel_error"].values(), "o-", label="held-out clips")
    mel.set(title=f"V2, fast discriminators, batch {numbers['batch_size']}", ylabel="L1 of the log-mels", xlabel="step")
    mel.legend()
    steps = range(1, len(numbers["compared"]["fast"]["gen_loss"]) + 1)
    for colour, (name, title) in enumerate(LOSSES.items()):
        losses.plot(steps, numbers["compared"]["reference"][name], f"C{colour}", linewidth=4, alpha=0.3)
        losses.plot(steps, numbers["compared"]["fast"][name], f"C{colour}--", label=title)
        for kind, line in (("fast", "-"), (CONTROL, ":")):
            values = [max(value, 1e-9) for value in numbers["relative_difference"][kind][name]]
            difference.plot(steps, values, f"C{colour}{line}", label=f"{title}, {kind}")
    losses.set(title="fast (dashed) over reference (wide), one seed", yscale="log", xlabel="step", ylabel="loss")
    difference.set(title="relative difference to the reference", yscale="log", xlabel="step")
    losses.legend()
    difference.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of wavs")
    parser.add_argument("--steps", type=int, default=300, help="of the first experiment; default %(default)s")
    parser.add_argument("--compared-steps", type=int, default=20, help="of the second; default %(default)s")
    parser.add_argument("--validation-interval", type=int, default=20, help="default %(default)s")
    parser.add_argument("--batch-size", type=int, default=2, help="default %(default)s")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder; default: this script's")
    args = parser.parse_args()
    try:
        require("drawing", "train", "matplotlib")
        numbers = measure(args)
    except (ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    (args.out / "training.json").write_text(json.dumps(numbers, indent=1) + "\n")
    draw(numbers, args.out / "training.png")
    values = numbers["training"]["validation_mel_error"]["value"]
    print(f"validation mel error {values[0]:.3f} -> {values[-1]:.3f}")
    for name, differences in numbers["relative_difference"].items():
        worst = {loss: f"{max(d[:5]):.1e} in 5 steps, {max(d):.1e} in all" for loss, d in differences.items()}
        print(f"{name} against reference, worst relative difference: {worst}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
