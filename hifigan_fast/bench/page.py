"""A run as one HTML page that needs no other file."""

import html

from tabulate import tabulate

from .. import parity
from . import figures, report
from .timing import NOISY

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
p, h1 {{ overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }}
.curves {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }}
th, td {{ text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8884; }}
.wide table {{ font-size: .9rem; }}
@media (max-width: 40rem) {{ .wide td:nth-child(-n + 3) {{ white-space: normal; }} }}
svg {{ width: 100%; height: auto; }} svg text {{ fill: currentColor; font-family: inherit; }}
.bars {{ max-width: 46rem; }} figure {{ margin: 0; }} figcaption {{ font-size: .9rem; }}
pre {{ overflow-x: auto; padding: .6rem; background: #8882; }}
.noise {{ color: #c33; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
{noise}
<div class="bars" role="img" aria-label="{alt}">{bars}</div>
<h2>Every way</h2>
<p>Medians of interleaved repeats; of ours, what ran it. <i>First, s</i>: the first call, which is in no median.
<i>× original</i>: the original loop's time by this one's, the median of the pairs of a round, with their range;
<i>× best rival</i>: the fastest by median, of those of PyTorch's own ways in the same arithmetic that were run, by
ours, “slower” where ours loses. <i>Of floor</i>: the least time that the step's operations by the direct count, or the
bytes of its maps and parameters, take at the rates that this machine reached in this run, by its time; algorithms with
fewer operations may exceed it. <i>Peak MiB</i> (with --full): memory above that of the networks. <i>±</i>: the largest
standard error of these medians, ! above {noisy:.0%}.</p>
<div class="wide">{table}</div>
<h2>Parity</h2>
<p>Ours before it was timed: errors against float64 by those of plain PyTorch, of the worst tensor; at most
{limit:.0f}. What fails is not timed.</p>
<div class="wide">{parity}</div>
{scaling}
<h2>Machine</h2>
<div class="wide">{machine}</div>
<h2>Again</h2>
<pre>{command}</pre>
</body>
</html>
"""

PARITY_HEADERS = ("arithmetic", "discriminators", "by", "worst ratio", "of", "")

SCALING = """<h2>How time grows</h2>
<p>Both halves of a step, one thing changed at a time, the rest as above. The exponent is of a line through both
logarithms: 1 is in proportion.</p>
<div class="curves">
{}
</div>"""
CURVE = '<figure role="img" aria-label="{0}">{1}<figcaption>{0}</figcaption></figure>'


def _scaling(curves):
    made = [CURVE.format(html.escape(report.growth(curve), quote=True), figures.curve_svg(curve)) for curve in curves]
    return SCALING.format("\n".join(made)) if made else ""


def _machine(result):
    """The facts of a run as (what, value)."""
    keys = ("date", "commit", "device", "processor", "threads", "instruction_set", "repeats", "waveforms")
    facts = {key.replace("_", " "): result[key] for key in keys if result[key] is not None}
    facts["load average, 1, 5 and 15 minutes before"] = ", ".join(map(str, result["load"] or ["unknown"]))
    for name, value in result["ceilings"]["gflops"].items():
        facts[f"measured 10⁹ operations/s, {name}"] = f"{value:.0f}"
    facts["measured 10⁹ bytes/s, copied"] = f"{result['ceilings']['gbytes']:.0f}"
    return [*facts.items(), *((f"{name} version", version) for name, version in result["versions"].items() if version)]


def page(result, command):
    """The run as one HTML page that needs no other file."""
    said = html.escape(report.headline(result), quote=True)
    return PAGE.format(
        title=html.escape(report.title(result).replace("\n", ": ")),
        summary=said,
        noise=f'<p class="noise">{html.escape(result["noise"])}</p>' if result["noise"] else "",
        alt=said,
        bars=figures.bars_svg(result),
        table=report.table(result["speed"], "html"),
        noisy=NOISY,
        limit=parity.LIMIT,
        parity=tabulate(
            report.judged(result["parity"]), headers=PARITY_HEADERS, tablefmt="html", disable_numparse=True
        ),
        scaling=_scaling(result["scaling"]),
        machine=tabulate(_machine(result), tablefmt="html", disable_numparse=True),
        command=html.escape(command),
    )
