"""The parity gate as a command prints it."""

from tabulate import tabulate

from .. import parity


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
