"""The speed comparison: the drop-in discriminators against plain PyTorch on this machine, after the parity gate."""

import datetime
import json
import platform
import statistics
import subprocess
import time
from pathlib import Path

import torch
from tabulate import tabulate

from . import discriminators as fast
from . import extras, parity, reference
from .discriminators import frozen
from .info import versions
from .losses import discriminator_loss, feature_loss, generator_loss

ENSEMBLES = {"mpd": ["mpd"], "msd": ["msd"], "both": ["mpd", "msd"]}


def build(names, plain):
    """Discriminator ensembles of "mpd" and "msd": plain PyTorch's or the drop-in's, always of equal parameters."""
    module = reference if plain else fast
    builders = {"mpd": module.MultiPeriodDiscriminator, "msd": module.MultiScaleDiscriminator}
    torch.manual_seed(0)
    return [builders[name]() for name in names]


def forward(modules, y, y_hat):
    """Both halves forward, no graph."""
    with torch.no_grad():
        for module in modules:
            module(y, y_hat)


def discriminator_step(modules, y, y_hat, losses):
    """The discriminators' half of a training step, without the optimizer."""
    for module in modules:
        module.zero_grad(set_to_none=True)
    loss = 0
    for module in modules:
        real, generated, _, _ = module(y, y_hat)
        loss = loss + losses.discriminator_loss(real, generated)[0]
    loss.backward()


def generator_step(modules, y, y_hat, losses):
    """The discriminators' part of the generator's half: adversarial and feature losses, down to the waveform."""
    y_hat = y_hat.detach().requires_grad_()
    loss = 0
    for module in modules:
        _, generated, real_maps, generated_maps = module(y, y_hat)
        loss = loss + losses.generator_loss(generated)[0] + losses.feature_loss(real_maps, generated_maps)
    loss.backward()


def frozen_generator_step(modules, y, y_hat, losses):
    """As `generator_step`, the discriminators frozen: no gradient that nobody uses."""
    with frozen(*modules):
        generator_step(modules, y, y_hat, losses)


class FastLosses:
    discriminator_loss = staticmethod(discriminator_loss)
    generator_loss = staticmethod(generator_loss)
    feature_loss = staticmethod(feature_loss)


# What is measured: (name, the drop-in's way, plain PyTorch's way). The original loop does not freeze.
STEPS = {
    "forward": (lambda m, y, z, _: forward(m, y, z), lambda m, y, z, _: forward(m, y, z)),
    "discriminator step": (discriminator_step, discriminator_step),
    "generator step, original loop": (frozen_generator_step, generator_step),
    "generator step, both frozen": (frozen_generator_step, frozen_generator_step),
}


def interleaved(first, second, repeats):
    """Seconds of two callables, run in turn so that both meet the same machine: ([first], [second])."""
    times = ([], [])
    for _ in range(repeats + 1):
        for call, taken in zip((first, second), times):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return times[0][1:], times[1][1:]


def measure(batch, length, repeats, clips=None, report=print):
    """Time every step on every ensemble -> rows of {ensemble, step, fast_ms, plain_ms, speedup, …}."""
    y, y_hat = parity.waveforms(batch, length, clips=clips)
    rows = []
    for ensemble, names in ENSEMBLES.items():
        ours, plain = build(names, plain=False), build(names, plain=True)
        for step, (run_ours, run_plain) in STEPS.items():
            fast_s, plain_s = interleaved(
                lambda run=run_ours: run(ours, y, y_hat, FastLosses),  # noqa: B023
                lambda run=run_plain: run(plain, y, y_hat, reference),  # noqa: B023
                repeats,
            )
            ratios = sorted(p / f for f, p in zip(fast_s, plain_s))
            rows.append(
                {
                    "ensemble": ensemble,
                    "step": step,
                    "fast_ms": 1e3 * statistics.median(fast_s),
                    "plain_ms": 1e3 * statistics.median(plain_s),
                    "speedup": statistics.median(ratios),
                    "speedup_range": [ratios[0], ratios[-1]],
                }
            )
            report(f"  {ensemble}, {step}: {rows[-1]['speedup']:.2f} ×")
    return rows


def table(rows):
    """The rows as the table that `hifigan-fast bench` prints."""
    keys = ("ensemble", "step", "plain_ms", "fast_ms", "speedup")
    shown = [(*(r[key] for key in keys), "{:.2f}–{:.2f}".format(*r["speedup_range"])) for r in rows]
    headers = ("discriminators", "what", "plain PyTorch, ms", "hifigan_fast, ms", "speed-up, ×", "range")
    return tabulate(shown, headers=headers, floatfmt=("", "", ".0f", ".0f", ".2f", ""))


def figure(rows, path, title):
    """The speed-ups as bars, written to `path` (PNG)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = list(STEPS)
    fig, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    for index, ensemble in enumerate(ENSEMBLES):
        heights = [r["speedup"] for step in steps for r in rows if r["ensemble"] == ensemble and r["step"] == step]
        bars = axes.bar([i + 0.27 * (index - 1) for i in range(len(steps))], heights, 0.25, label=ensemble)
        axes.bar_label(bars, fmt="%.1f", padding=2)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(steps)), [step.replace(", ", ",\n") for step in steps])
    axes.set_ylabel("times faster than plain PyTorch")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=150)
    plt.close(fig)


def parity_table(verdicts):
    """Worst error ratios of `parity.check` as a table, and whether all pass."""
    rows = [
        (ensemble, backend, kind, ratio, name, "ok" if ratio <= parity.LIMIT else "FAIL")
        for ensemble, of in verdicts.items()
        for backend, verdict in of.items()
        for kind, (ratio, name) in verdict.worst.items()
    ]
    headers = ("ensemble", "backend", "output", "worst ratio", "in", "")
    passed = all(verdict.passed for of in verdicts.values() for verdict in of.values())
    return tabulate(rows, headers=headers, floatfmt=".2f"), passed


def _commit():
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def conditions(repeats):
    """When, where and how often a run was made, for its JSON."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": platform.processor() or platform.machine(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
    }


def _read_clips(folder, count):
    import soundfile

    from .training.data import find_clips

    training, held_out = find_clips(folder)
    return [soundfile.read(path, dtype="float32")[0] for path in (*training, *held_out)[:count]]


def run(data=None, out="bench-out", batch=4, length=8192, repeats=5):
    """The main job: parity, then speed; prints tables, writes `bench.json` and `bench.png` to `out` -> exit status."""
    extras.require("the benchmark", "bench", "matplotlib", *([] if data is None else ["soundfile"]))
    clips = None if data is None else _read_clips(data, batch)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    source = f"the clips of {data}" if data else "synthetic voice"
    print(f"parity against float64, on {source} (limit {parity.LIMIT}):")
    verdicts = parity.check(length=length, clips=clips)
    text, passed = parity_table(verdicts)
    print(text)
    if not passed:
        print("parity FAILED: no speed is reported")
        return 1
    print(f"\nspeed, batch {batch} × {length}, {torch.get_num_threads()} threads, {repeats} interleaved repeats:")
    rows = measure(batch, length, repeats, clips)
    print("\n" + table(rows))
    result = {
        **conditions(repeats),
        "batch": batch,
        "segment": length,
        "parity": {e: {b: v.worst for b, v in of.items()} for e, of in verdicts.items()},
        "speed": rows,
    }
    (out / "bench.json").write_text(json.dumps(result, indent=2) + "\n")
    figure(rows, out / "bench.png", f"batch {batch} × {length}, float32, {torch.get_num_threads()} CPU threads")
    print(f"\nwritten: {out / 'bench.json'}, {out / 'bench.png'}")
    return 0
