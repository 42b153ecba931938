"""Two questions about the design. Writes docs/questions-*.png and the tables of docs/questions.md.

Measures what takes no long training, where it is missing (the folds: a minute; three runs of 20 steps: ten), and draws
it with those training runs that there are: `python docs/train_studies.py` makes them.

python docs/make_questions_figures.py [--data DIR]
"""

import math
import sys
from statistics import median

import numpy as np
from studies import bands, clips, course, pages, periods, probes, results, runs
from tabulate import tabulate

PAGE = pages.DOCS / "questions.md"
FOLDS = results.RESULTS / "periods.json"
SHORT = [runs.Run("step-losses", runs.SEEDS[0], spectral=name) for name in runs.SPECTRAL]
NORMS = {"first": "the first scale (as it is)", "none": "no scale", "all": "all scales"}
BY_PERIODS = (lambda run: run.periods), (lambda name: named(runs.PERIODS[name]))  # what runs differ in, and its title
BY_SPECTRAL = (lambda run: run.spectral), NORMS.get
KINDS = {
    periods.ALONE: "apart, below rate/2p",
    periods.ALIASED: "apart, aliased",
    periods.MERGED: "merged with another",
}


def measure(args):
    """Measure what is missing of both questions without long trainings. Returns an exit status."""
    short = [run for run in SHORT if not results.of_plan(runs.SHORT, [run])]
    folds = results.read(FOLDS)
    if short or folds is None:
        data = clips.chosen(args.data, args.scratch)
        if folds is None:
            periods.measure(data)
        if short:
            probes.required()
        return course.work(short, runs.SHORT, data, args.scratch)
    return 0


def named(periods_of_set):
    return ", ".join(map(str, periods_of_set))


def folds_section(found):
    """Of each period: what its columns do to partials; of each set: what it sees once and twice."""
    rows = [
        (p, *(f"{found['folds'][p][kind][0]:.1%}, {found['folds'][p][kind][1]:.0%}" for kind in KINDS))
        + (f"{found['reach'][p][1]:.0%}", f"{found['reach'][p][2]:.0%}")
        for p in found["folds"]
    ]
    headers = ["period", *KINDS.values(), "pitch period within layer 2's field", "layer 3's"]
    first = tabulate(rows, headers, "github", disable_numparse=True)
    sets = [
        (named(runs.PERIODS[name]), f"{own['covered']:.1%}", f"{own['weighted']:.1%}", f"{own['twice']:.1%}")
        + (", ".join(f"{share:.0%}" for share in own["own"].values()),)
        + (f"{min(own['pairs']):.0%} – {max(own['pairs']):.0%}",)
        for name, own in found["sets"].items()
    ]
    headers = ["periods", "distances seen", "weighted by resemblance", "by two or more", "each one's alone"]
    headers.append("two together, of the rarer's")
    second = tabulate(sets, headers, "github", disable_numparse=True)
    pitch = f"{found['f0']['0.1']:.0f}, {found['f0']['0.5']:.0f} and {found['f0']['0.9']:.0f} Hz"
    return (
        f"{found['frames']} voiced frames, pitch {pitch} (a tenth, half, nine tenths of them below); of their energy "
        f"{found['harmonic_share']:.0%} is in the pitch and its harmonics. Shares of the partials' energy, and of "
        f"their number:\n\n{first}\n\nDistances from 1 to {periods.DISTANCES} samples:\n\n{second}\n"
    )


def trained_section(plan, found, wanted, value, title):
    """The last measures of runs that differ in one thing, `value` of a run; `title` says it. The first is standard."""
    how = pages.made(plan, found, wanted)
    rows, names = [], list(dict.fromkeys(map(value, wanted)))
    own = {name: {run.seed: found[run.name] for run in of(found, wanted, value, name)} for name in names}
    for name in names:
        if own[name]:
            less = pages.less(own[name], own[names[0]])
            inside = bands.inside(*(curves(found, wanted, value, which) for which in (name, names[0])))
            ends = pages.ends(own[name].values(), pages.DISTANCES)
            rows.append((title(name), len(own[name]), *ends, *less, inside))
    if not rows:
        return f"{how}\n"
    headers = ["", "seeds", *pages.DISTANCES.values(), *(f"{which} mel error less the first's" for which in pages.LESS)]
    headers.append("training's in the first's band")
    return f"{how}\n\n{tabulate(rows, headers, 'github', disable_numparse=True)}\n"


def of(found, wanted, value, name):
    """The finished runs of which `value` is `name`, seed by seed."""
    return [run for run in wanted if value(run) == name and run.name in found]


def curves(found, wanted, value, name, loss="mel_error"):
    """A loss of those runs of which `value` is `name`, seed by seed."""
    return [found[run.name]["curve"][loss] for run in of(found, wanted, value, name)]


def spectral_section(plan, found, wanted):
    """MSD's first scale at each probe, and the gradients of all at the last, by what is normed: medians over seeds."""
    first, last = [], []
    for name in runs.SPECTRAL:
        own = [found[run.name]["probes"] for run in of(found, wanted, BY_SPECTRAL[0], name)]
        for probed in zip(*own):
            layers = [first_scale(probe) for probe in probed]
            each = [
                ", ".join(
                    f"{median(values):.2f}" for values in zip(*([own[index] for own in layer] for layer in layers))
                )
                for index in (0, 1)
            ]
            product = median(math.prod(gain for _, gain in layer) for layer in layers)
            first.append((NORMS[name], probed[0]["step"], *each, f"{product:.1f}", *scale_gradients(probed, "msd.0")))
        if own:
            ends = [probes[-1] for probes in own]
            last.append((NORMS[name], *(" / ".join(scale_gradients(ends, f"msd.{scale}")) for scale in range(3))))
    headers = ["spectral-normed", "step", "σ, stem to head", "gains", "their product", "gradient, real", "generated"]
    table = tabulate(first, headers, "github", disable_numparse=True)
    headers = ["spectral-normed", "first scale", "second", "third"]
    ends = tabulate(last, headers, "github", disable_numparse=True)
    how = pages.made(plan, found, wanted)
    return f"{how} MSD's first scale:\n\n{table}\n\nGradients at step {plan.steps}, real / generated:\n\n{ends}\n"


def scale_gradients(probed, scale):
    """Gradients of one of MSD's scales at real and at generated clips: medians over probes."""
    return [f"{median(probe['gradients'][scale][side] for probe in probed):.1e}" for side in (0, 1)]


def first_scale(probe):
    """[matrix, gain] of each layer of MSD's first scale, stem to head."""
    return [own for name, own in probe["layers"].items() if name.startswith("msd.0.")]


def section(folds, short, plan, trained):
    """All that the page has of results; `folds` may be None, `plan` is that of `trained`."""
    return (
        f"### Periods: figures\n\n{folds_section(folds) if folds else 'Not measured yet.'}\n"
        f"{trained_section(plan, trained, runs.OF_PERIODS, *BY_PERIODS)}\n"
        f"### Spectral norm: figures\n\n{spectral_section(runs.SHORT, short, SHORT)}\n"
        f"{spectral_section(plan, trained, runs.OF_SPECTRAL)}\n"
        f"{trained_section(plan, trained, runs.OF_SPECTRAL, *BY_SPECTRAL)}"
    )


def draw_folds(axes, found):
    names = list(found["folds"])
    for offset, (index, pattern) in ((-0.2, (0, "")), (0.2, (1, "//"))):
        bottom = np.zeros(len(names))
        for color, kind in zip(("C0", "C1", "0.7"), KINDS):
            values = np.array([found["folds"][p][kind][index] for p in names])
            label = KINDS[kind] if index == 0 else None
            axes.bar(np.arange(len(names)) + offset, values, 0.36, bottom, color=color, hatch=pattern, label=label)
            bottom += values
    axes.set(title="Partials in a column: energy (left), number (hatched)", xlabel="period", ylabel="share")
    axes.set_xticks(range(len(names)), names, fontsize="x-small")
    axes.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)


def draw_sets(axes, found):
    names = list(found["sets"])
    seen, twice = ([found["sets"][name][key] for name in names] for key in ("covered", "twice"))
    axes.barh(names, seen, color="C0", label="by one or more")
    axes.barh(names, twice, color="C1", height=0.4, label="by two or more")
    axes.set(title=f"Distances up to {periods.DISTANCES} that a set sees", xlabel="share", xlim=(0, 1))
    axes.set_yticks(range(len(names)), [named(runs.PERIODS[name]) for name in names], fontsize="small")
    axes.invert_yaxis()
    axes.legend(fontsize="x-small", loc="lower right")


def draw_trained(axes, plan, found, wanted, value, title, loss):
    """The curves of runs that differ in one thing, with the band of the first, the standard."""
    heading = f"{loss}, {plan.steps} steps"
    if not any(run.name in found for run in wanted):
        lacking = results.missing(found, wanted).split(";")[0]
        return pages.absent(axes, heading, f"{lacking}:\ndocs/train_studies.py")
    names = list(dict.fromkeys(map(value, wanted)))
    limits = bands.band(curves(found, wanted, value, names[0], loss))
    if limits:
        axes.fill_between(plan.points, *limits, color="0.85", label="95 % band of the first's")
    for index, name in enumerate(names):
        for number, own in enumerate(curves(found, wanted, value, name, loss)):
            axes.plot(plan.points, own, f"C{index}", linewidth=0.8, label=None if number else title(name))
    axes.set(title=heading, xlabel="step")
    axes.legend(fontsize="x-small", title=results.missing(found, wanted).split(";")[0])


def draw_gains(axes, plan, found, wanted):
    for index, name in enumerate(runs.SPECTRAL):
        first = found[of(found, wanted, BY_SPECTRAL[0], name)[0].name]
        for probe, style in zip((first["probes"][i] for i in (0, -1)), ("--", "-")):
            gains = [gain for _, gain in first_scale(probe)]
            axes.plot(gains, f"C{index}o{style}", markersize=3, label=f"{NORMS[name]}, step {probe['step']}")
    axes.set(
        title="Gain of the layers of MSD's first scale", xlabel="layer", ylabel="largest singular value", yscale="log"
    )
    axes.legend(fontsize="x-small")


def draw_gradients(axes, plan, found, wanted):
    for index, name in enumerate(runs.SPECTRAL):
        for number, run in enumerate(of(found, wanted, BY_SPECTRAL[0], name)):
            for side, style in enumerate(("-", "--")):
                values = [probe["gradients"]["msd.0"][side] for probe in found[run.name]["probes"]]
                label = None if number else f"{NORMS[name]}, {('real', 'generated')[side]}"
                axes.plot(plan.marks, values, f"C{index}{style}", linewidth=0.8, label=label)
    axes.set(title="Gradient of its mean logit at the clips", xlabel="step", ylabel="length", yscale="log")
    axes.legend(fontsize="x-small")


def draw(drawn, folds, short, plan, trained):
    """Both figures on two canvases, of what there is."""
    (figure, axes), (other, others) = drawn
    if folds:
        draw_folds(axes[0], folds)
        draw_sets(axes[1], folds)
        draw_trained(axes[2], plan, trained, runs.OF_PERIODS, *BY_PERIODS, "mel_error")
        pages.save(figure, "questions-periods.png")
    longest = plan, trained, runs.OF_SPECTRAL
    if not all(of(trained, runs.OF_SPECTRAL, BY_SPECTRAL[0], name) for name in runs.SPECTRAL):
        longest = runs.SHORT, short, SHORT
    if len(short) == len(SHORT):
        draw_gains(others[0], *longest)
        draw_gradients(others[1], *longest)
        draw_trained(others[2], *longest, *BY_SPECTRAL, "disc_loss")
        pages.save(other, "questions-spectral.png")


def main():
    args = pages.arguments(__doc__)
    try:
        drawn = [pages.canvas(3) for _ in range(2)]
        status = measure(args)
        if status:
            return status
        folds, short = results.read(FOLDS), results.of_plan(runs.SHORT, SHORT)
        both = list(dict.fromkeys([*runs.OF_PERIODS, *runs.OF_SPECTRAL]))
        plan, trained = results.fullest(runs.OF_QUESTIONS, both)
        pages.write(PAGE, section(folds, short, plan, trained))
    except (ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    draw(drawn, folds, short, plan, trained)
    print(f"{PAGE.name} and its figures: trainings: {results.missing(trained, both)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
