"""Does it train the same? Writes docs/fidelity.png and the tables of docs/fidelity.md.

Measures how fast runs of one seed part, where that is missing (ten minutes a seed on a quiet core), and draws it with
those training runs that there are: `python docs/train_studies.py` makes them.

python docs/make_fidelity_figure.py [--data DIR]
"""

import statistics
import sys

from studies import bands, clips, pages, parting, results, runs
from tabulate import tabulate

PAGE = pages.DOCS / "fidelity.md"
PARTS = ("generator", "discriminators")


def measure(args):
    """Measure what is missing of the first question."""
    lacking = [run for run in parting.RUNS if not results.of_plan(parting.PARTING, [run])]
    for run in lacking:
        parting.measure(run, parting.PARTING, clips.chosen(args.data, args.scratch))


def parting_section(found):
    """How far each rival is from plain PyTorch of the same seed, and against the controls; `found`: results by name."""
    how = pages.made(parting.PARTING, found, parting.RUNS)
    if not found:
        return f"{how}\n"
    distances, against = [], []
    for name, rival in parting.RIVALS.items():
        curves = {part: [result["rivals"][name][part] for result in found.values()] for part in PARTS}
        cells = (f"{statistics.median(c[at] for c in curves[part]):.1e}" for part in PARTS for at in (0, -1))
        distances.append((rival.title, *cells))
        if name in parting.OURS:
            ratios = (parting.ratios(found, part, name, control) for part in PARTS for control in parting.CONTROLS)
            against.append((rival.title, *(f"{statistics.median(r):.2f} ({min(r):.2f}–{max(r):.2f})" for r in ratios)))
    last = f"step {parting.PARTING.steps}"
    headers = ["", *(f"{part}, {column}" for part in PARTS for column in ("step 1", last))]
    first = tabulate(distances, headers, "github", disable_numparse=True)
    controls = [control.title.removeprefix("plain PyTorch, ") for control in parting.CONTROLS.values()]
    headers = ["", *(f"{part}, × {control}" for part in PARTS for control in controls)]
    second = tabulate(against, headers, "github", disable_numparse=True)
    return f"{how} Medians over the seeds:\n\n{first}\n\nAt {last}, over each control's, and the range:\n\n{second}\n"


def training_section(plan, found):
    """Each way's last measures, how far it is from plain PyTorch's, and how much of its curves lies in their band."""
    how = pages.made(plan, found, runs.FIDELITY)
    if not found:
        return f"{how}\n"
    lines, plain = [], of_way(found, "plain")
    for way, settings in runs.WAYS.items():
        own = plain if way == "plain" else of_way(found, way)
        if own:
            less = pages.less(own, plain)
            inside = (bands.inside(curves(found, way, loss), curves(found, "plain", loss)) for loss in runs.LOSSES)
            lines.append((settings.title, len(own), *pages.ends(own.values(), pages.MEASURES), *less, *inside))
    headers = ["", "seeds", *pages.MEASURES.values(), *(f"{of} mel error less plain's" for of in pages.LESS)]
    headers += [f"{loss} in the band" for loss in runs.LOSSES]
    return f"{how}\n\n{tabulate(lines, headers, 'github', disable_numparse=True)}\n"


def of_way(found, way):
    """The results of a way's runs, by seed."""
    return {run.seed: found[run.name] for run in runs.FIDELITY if run.way == way and run.name in found}


def curves(found, way, loss):
    """A loss of a way's runs, seed by seed."""
    return [result["curve"][loss] for result in of_way(found, way).values()]


def section(parted, plan, trained):
    """All that the page has of results; `plan` is that of `trained`."""
    return (
        f"### How fast do runs of one seed part?\n\n{parting_section(parted)}\n"
        f"### {plan.steps} steps, three seeds\n\n{training_section(plan, trained)}"
    )


def draw_parting(axes, found, part):
    if not found:
        return pages.absent(axes, f"Distance of the {part}", "not measured yet")
    for index, (name, rival) in enumerate(parting.RIVALS.items()):
        curves = [result["rivals"][name][part] for result in found.values()]
        values = [statistics.median(own) for own in zip(*curves)]
        control = name in parting.CONTROLS
        style = {"color": "0.45", "linestyle": ("--", ":", "-.")[index]} if control else {"color": f"C{index - 3}"}
        axes.plot(range(1, len(values) + 1), [max(v, 1e-9) for v in values], label=rival.title, **style)
    axes.set(title=f"Distance of the {part} from plain PyTorch's", yscale="log", xlabel="step")
    axes.set_ylabel("over the way from the start")
    axes.legend(fontsize="x-small")


def draw_training(axes, plan, found):
    title = f"Mel error of the training batches, {plan.steps} steps"
    if not found:
        return pages.absent(axes, title, f"{results.missing([], runs.FIDELITY).split(';')[0]}:\ndocs/train_studies.py")
    limits = bands.band(curves(found, "plain", "mel_error"))
    if limits:
        axes.fill_between(plan.points, *limits, color="0.85", label="plain PyTorch's 95 % band")
    for index, (way, settings) in enumerate(runs.WAYS.items()):
        for number, curve in enumerate(curves(found, way, "mel_error")):
            color = "0.45" if way == "plain" else f"C{index - 1}"
            label = None if number else settings.title
            axes.plot(plan.points, curve, color=color, linewidth=0.8, label=label)
    axes.set(title=title, xlabel="step")
    axes.legend(fontsize="x-small", title=results.missing(found, runs.FIDELITY).split(";")[0])


def main():
    args = pages.arguments(__doc__)
    try:
        figure, axes = pages.canvas(3)
        measure(args)
        parted = results.of_plan(parting.PARTING, parting.RUNS)
        plan, trained = results.fullest(runs.OF_FIDELITY, runs.FIDELITY)
        pages.write(PAGE, section(parted, plan, trained))
    except (ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    for own, part in zip(axes, PARTS):
        draw_parting(own, parted, part)
    draw_training(axes[2], plan, trained)
    pages.save(figure, "fidelity.png")
    print(f"{PAGE.name}, fidelity.png: trainings: {results.missing(trained, runs.FIDELITY)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
