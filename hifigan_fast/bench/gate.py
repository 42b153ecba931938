"""The parity gate as a command prints it."""

import functools
import math

import torch
from tabulate import tabulate

from .. import dispatch, parity
from ..backends.reference import ReferenceBackend

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


def _flags(arithmetic):
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=arithmetic == "tf32")


def measured_backend(device, arithmetic="float32"):
    """The name of what runs ours on a device in an arithmetic: "float32", "tf32" or "bfloat16"."""
    where = device, torch.bfloat16 if arithmetic == "bfloat16" else torch.float32
    with _flags(arithmetic):
        if dispatch.requested() == dispatch.MODULES or dispatch.no_kernels(*where):
            return dispatch.MODULES
        return dispatch.choose(*where).backend.name


def _finite(worst):
    """Of JSON, which has no infinity."""
    return {kind: (ratio if math.isfinite(ratio) else None, name) for kind, (ratio, name) in worst.items()}


def judge(workload, ways, full, bar, device, verbose, **how):
    """The parity gate above a progress bar, of a workload's modules in every arithmetic that ours are measured in: by
    the backends that are measured, or if `full` all -> ({arithmetic: {ensemble: {backend: {class of outputs: (worst
    ratio, or None for one that is not finite, where)}}}}, whether all pass).

    TF32 fails nothing but its own rows (`refused`): cuDNN, which runs where kernels are refused, can be less exact than
    what they are held against.
    """
    found, passed = {}, True
    for arithmetic in dict.fromkeys(way.arithmetic(device.type) for way in ways.values() if way.ours):
        autocast = torch.bfloat16 if arithmetic == "bfloat16" else None
        others = parity.able(autocast, device) if full else []
        backends = list(dict.fromkeys([measured_backend(device, arithmetic), *others]))
        passes = GATE_PASSES * len(backends)
        bar.total += passes * len(workload.judged)
        bar.write(f"in {arithmetic}:")
        with _flags(arithmetic):
            verdicts, right = gate(
                bar.write,
                verbose,
                functools.partial(bar.update, passes),
                ensembles=workload.judged,
                autocast=autocast,
                backends=backends,
                device=device,
                **how,
            )
        passed &= right or arithmetic == "tf32"
        found[arithmetic] = {e: {b: _finite(v.worst) for b, v in of.items()} for e, of in verdicts.items()}
    return found, passed


def _refused(verdicts, device, arithmetic):
    backend = measured_backend(device, arithmetic)
    if backend == dispatch.MODULES:
        autocast = torch.bfloat16 if arithmetic == "bfloat16" else None
        untrusted = dispatch.requested() is None and set(parity.able(autocast, device)) - {ReferenceBackend.name}
        said = "`hifigan-fast info` shows the verdict"
        return f"kernels failed their check in {arithmetic}, plain PyTorch runs: {said}" if untrusted else None
    ratios = [ratio for of in verdicts.values() for ratio, _ in of.get(backend, {}).values()]
    if all(ratio is not None and ratio <= parity.LIMIT for ratio in ratios):
        return None
    worst = "not finite" if None in ratios else f"{max(ratios):.2f}"
    return f"fails the parity gate in {arithmetic} by {backend}: worst ratio {worst}, limit {parity.LIMIT}"


def refused(found, ways, device):
    """{way: why it is not timed, in words} of ours whose kernels failed, in the verdicts of `judge` or in their check
    at first contact.
    """
    of = {arithmetic: _refused(verdicts, device, arithmetic) for arithmetic, verdicts in found.items()}
    ours = {name: of[way.arithmetic(device.type)] for name, way in ways.items() if way.ours}
    return {name: why for name, why in ours.items() if why}
