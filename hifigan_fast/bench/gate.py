"""The parity gate as a command prints it."""

import functools

import torch
from tabulate import tabulate

from .. import dispatch, parity

GATE_PASSES = 10  # about what the gate takes for an ensemble, in passes of a progress bar


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


def measured_backend(device, autocast=None):
    """The name of what runs the discriminators that are measured."""
    where = device, autocast or torch.float32
    if dispatch.requested() == dispatch.MODULES or dispatch.no_kernels(*where):
        return dispatch.MODULES
    return dispatch.choose(*where).backend.name


def judge(ways, full, bar, device, verbose, **how):
    """The parity gate above a progress bar, in every arithmetic that ours are measured in: of the backends that are
    measured, or if `full` all -> ({arithmetic: {ensemble: {backend: {class of outputs: (worst ratio, where)}}}},
    whether all pass).

    TF32 is told, not judged: cuDNN may take some layers in float32 all the same.
    """
    found, passed = {}, True
    for arithmetic in dict.fromkeys(way.arithmetic(device.type) for way in ways.values() if way.ours):
        autocast = torch.bfloat16 if arithmetic == "bfloat16" else None
        others = parity.able(autocast, device) if full else []
        backends = list(dict.fromkeys([measured_backend(device, autocast), *others]))
        passes = GATE_PASSES * len(backends)
        bar.total += passes * len(parity.ENSEMBLES)
        bar.write(f"in {arithmetic}:")
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=arithmetic == "tf32"):
            verdicts, right = gate(
                bar.write,
                verbose,
                functools.partial(bar.update, passes),
                autocast=autocast,
                backends=backends,
                device=device,
                **how,
            )
        passed &= right or arithmetic == "tf32"
        found[arithmetic] = {e: {b: v.worst for b, v in of.items()} for e, of in verdicts.items()}
    return found, passed
