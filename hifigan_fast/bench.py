"""The speed comparison: the drop-in discriminators against plain PyTorch on this machine, after the parity gate."""

import datetime
import functools
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from tabulate import tabulate

from . import discriminators as fast
from . import dispatch, extras, parity, reference
from .discriminators import frozen
from .info import processor, versions
from .losses import discriminator_loss, feature_loss, generator_loss
from .version import __version__

ENSEMBLES = {"mpd": ["mpd"], "msd": ["msd"], "both": ["mpd", "msd"]}


def build(names, plain):
    """Discriminator ensembles of "mpd" and "msd": plain PyTorch's or the drop-in's, always of equal parameters."""
    module = reference if plain else fast
    builders = {"mpd": module.MultiPeriodDiscriminator, "msd": module.MultiScaleDiscriminator}
    torch.manual_seed(0)
    return [builders[name]() for name in names]


def forward(modules, y, y_hat, losses=None):
    """Both halves forward, no graph, no losses."""
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


class Step(NamedTuple):
    """What is measured: the drop-in's way and plain PyTorch's, each called with modules, waveforms and losses."""

    ours: Callable
    plain: Callable
    passes: int  # over every convolution, forward or to its input's or its weight's gradient: the bar's unit
    quick: bool  # measured without --full


STEPS = {
    "forward": Step(forward, forward, 1, False),
    "discriminator step": Step(discriminator_step, discriminator_step, 3, True),
    "generator step, original loop": Step(frozen_generator_step, generator_step, 3, True),  # which does not freeze
    "generator step, both frozen": Step(frozen_generator_step, frozen_generator_step, 2, False),
}
GATE_PASSES = 10  # about what the parity gate takes for an ensemble, in passes of the bar
QUICK_GATE = 4096  # samples: a float64 reference of the usual segment takes half a minute
REPEATS, FULL_REPEATS = 3, 5
BAR = "{desc}{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
MORE = "\n--full: every backend, every step, more repeats"
NOISY = 0.15  # a spread above it is marked
ADVICE = f"! spread above {NOISY:.0%}: something else used the processor; end it, and measure again with more --repeats"


def interleaved(first, second, repeats, after=lambda: None):
    """Seconds of two callables, run in turn so that both meet the same machine: ([first], [second]).

    One more pair comes first and does not count. `after` is called after each pair.
    """
    times = ([], [])
    for _ in range(repeats + 1):
        for call, taken in zip((first, second), times):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
        after()
    return times[0][1:], times[1][1:]


def _spread(values):
    return (max(values) - min(values)) / statistics.median(values)


def row(ensemble, step, fast_s, plain_s):
    """One measurement: medians, the range of the pairwise speed-ups, and the spread of these and of each side's times
    (largest less smallest, over the median), which a single pair does not tell.
    """
    ratios = [p / f for f, p in zip(fast_s, plain_s)]
    spread = max(_spread(values) for values in (ratios, fast_s, plain_s)) if len(ratios) > 1 else None
    return {
        "ensemble": ensemble,
        "step": step,
        "fast_ms": 1e3 * statistics.median(fast_s),
        "plain_ms": 1e3 * statistics.median(plain_s),
        "speedup": statistics.median(ratios),
        "speedup_range": [min(ratios), max(ratios)],
        "spread": spread,
        "noisy": spread is not None and spread > NOISY,
    }


def _line(row):
    low, high = row["speedup_range"]
    return f"  {row['ensemble']}, {row['step']}: {row['speedup']:.2f} × ({low:.2f}–{high:.2f}){' !' * row['noisy']}"


def measure(waves, steps, repeats, bar):
    """Time `steps` on every ensemble -> their rows, each printed above the progress bar as soon as it is there."""
    names = ENSEMBLES["both"]
    ours, plain = (dict(zip(names, build(names, plain=which))) for which in (False, True))
    rows = []
    for ensemble, members in ENSEMBLES.items():
        for name in steps:
            step = STEPS[name]
            bar.set_description(f"{ensemble}, {name}")
            fast_s, plain_s = interleaved(
                lambda: step.ours([ours[m] for m in members], *waves, FastLosses),  # noqa: B023
                lambda: step.plain([plain[m] for m in members], *waves, reference),  # noqa: B023
                repeats,
                after=lambda: bar.update(len(members) * step.passes),  # noqa: B023
            )
            rows.append(row(ensemble, name, fast_s, plain_s))
            bar.write(_line(rows[-1]))
    return rows


def table(rows):
    """The rows as the table that `hifigan-fast bench` prints."""
    shown = [
        (
            *(r[key] for key in ("ensemble", "step", "plain_ms", "fast_ms", "speedup")),
            "{:.2f}–{:.2f}".format(*r["speedup_range"]),
            "?" if r["spread"] is None else f"{r['spread']:.0%}{' !' * r['noisy']}",
        )
        for r in rows
    ]
    headers = ("discriminators", "what", "plain PyTorch, ms", "hifigan_fast, ms", "speed-up, ×", "range", "spread")
    text = tabulate(shown, headers=headers, floatfmt=("", "", ".0f", ".0f", ".2f", "", ""))
    return f"{text}\n{ADVICE}" if any(r["noisy"] for r in rows) else text


def figure(rows, path, title):
    """The speed-ups as bars with their ranges, noisy ones hatched, written to `path` (PNG)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = list(dict.fromkeys(r["step"] for r in rows))
    fig, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    for index, ensemble in enumerate(ENSEMBLES):
        own = [r for step in steps for r in rows if r["ensemble"] == ensemble and r["step"] == step]
        bars = axes.bar(
            [i + 0.27 * (index - 1) for i in range(len(own))],
            [r["speedup"] for r in own],
            0.25,
            yerr=list(zip(*(_reach(r) for r in own))),
            capsize=3,
            label=ensemble,
            hatch=["///" if r["noisy"] else "" for r in own],
            edgecolor="white",
        )
        axes.bar_label(bars, [f"{r['speedup']:.1f}{' !' * r['noisy']}" for r in own], padding=2)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(steps)), [step.replace(", ", ",\n") for step in steps])
    axes.set_ylabel("times faster than plain PyTorch")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    if any(r["noisy"] for r in rows):
        axes.set_xlabel(ADVICE, color="firebrick", loc="left")
    fig.savefig(path, dpi=150)
    plt.close(fig)


def _reach(row):
    """How far the range reaches below and above the median."""
    low, high = row["speedup_range"]
    return row["speedup"] - low, high - row["speedup"]


def parity_table(verdicts):
    """Worst error ratios of `parity.check` as a table, by class of outputs."""
    rows = [
        (ensemble, backend, kind, ratio, name, "ok" if ratio <= parity.LIMIT else "FAIL")
        for ensemble, of in verdicts.items()
        for backend, verdict in of.items()
        for kind, (ratio, name) in verdict.worst.items()
    ]
    return tabulate(rows, headers=("ensemble", "backend", "output", "worst ratio", "in", ""), floatfmt=".2f")


def gate(write=print, verbose=False, after=lambda: None, **how):
    """`parity.check(**how)`, a line written for each ensemble and backend, if `verbose` a table too -> (verdicts,
    whether all pass). `after` is called after each ensemble.
    """

    def report(ensemble, verdicts):
        for backend, verdict in verdicts.items():
            write(f"  {ensemble}, {backend}: {verdict}")
        after()

    verdicts = parity.check(report=report, **how)
    if verbose:
        write(parity_table(verdicts))
    return verdicts, all(verdict.passed for of in verdicts.values() for verdict in of.values())


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
        "processor": processor(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
    }


def _read_clips(folder, count):
    """The first `count` clips of a folder, mono and of whatever rate, as arrays."""
    from .training import files

    clips = files.clips_below(folder)
    if not clips:
        raise ValueError(f"data: expected wavs or FLAC files in {str(folder)!r}, got none{files.hint(folder)}")
    return [files.read_clip(path) for path in clips[:count]]


def _measured_backend():
    """The name of what runs the discriminators that are measured."""
    where = torch.device("cpu"), torch.float32
    if dispatch.requested() == dispatch.MODULES or dispatch.no_kernels(*where):
        return dispatch.MODULES
    return dispatch.choose(*where).backend.name


def run(data=None, out="bench-out", batch=4, length=8192, repeats=None, full=False, verbose=False):
    """The main job: parity, then speed; prints tables, writes `bench.json` and `bench.png` to `out` -> exit status.

    It judges the backend that it measures, on a short segment, and times both halves of a training step; if `full`,
    every backend that can run here on the whole segment, and every step, more often.
    """
    extras.require("the benchmark", "bench", "matplotlib", "tqdm", *([] if data is None else ["soundfile"]))
    from tqdm import tqdm

    clips = None if data is None else _read_clips(data, batch)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    repeats = repeats or (FULL_REPEATS if full else REPEATS)
    steps = [name for name, step in STEPS.items() if full or step.quick]
    backends = list(dict.fromkeys([_measured_backend(), *(parity.able() if full else [])]))
    judged = length if full else min(length, QUICK_GATE)
    gate_passes = GATE_PASSES * len(backends)
    passes = sum(map(len, ENSEMBLES.values())) * sum(STEPS[name].passes for name in steps) * (repeats + 1)
    total = gate_passes * len(parity.ENSEMBLES) + passes
    with tqdm(desc="parity", total=total, bar_format=BAR, smoothing=0.1, leave=False, disable=None) as bar:
        source = f"the clips of {data}" if data else "synthetic voice"
        bar.write(f"parity against float64, batch 1 × {judged} of {source} (limit {parity.LIMIT}):")
        after = functools.partial(bar.update, gate_passes)
        verdicts, passed = gate(bar.write, verbose, after, length=judged, clips=clips, backends=backends)
        if not passed:
            bar.write("parity FAILED: no speed is reported")
            return 1
        shape = f"batch {batch} × {length}, float32, threads: {torch.get_num_threads()}, interleaved repeats: {repeats}"
        bar.write(f"\nspeed on {processor()}, {shape}:")
        rows = measure(parity.waveforms(batch, length, clips=clips), steps, repeats, bar)
    print("\n" + table(rows))
    result = {
        **conditions(repeats),
        "batch": batch,
        "segment": length,
        "parity": {e: {b: v.worst for b, v in of.items()} for e, of in verdicts.items()},
        "speed": rows,
        "noise": ADVICE if any(r["noisy"] for r in rows) else None,
    }
    (out / "bench.json").write_text(json.dumps(result, indent=2) + "\n")
    figure(
        rows, out / "bench.png", f"hifigan_fast {__version__} on {processor()}: median speed-ups and ranges\n{shape}"
    )
    print(f"\nwritten: {out / 'bench.json'}, {out / 'bench.png'}{'' if full else MORE}")
    return 0
