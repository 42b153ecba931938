"""The check of a backend's kernels at first contact with a device: the parity gate there, in a process of its own."""

import contextlib
import json
import sys

import torch

from . import parity

# Real layers, whose kernels a training run then finds compiled; waveforms of several tiles and an odd length.
BATCH, LENGTH = 2, 4099
DTYPES = {"tf32": torch.float32}  # of an arithmetic that is not the name of one


def _multiply_float32_in(arithmetic):
    allow = arithmetic == "tf32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allow


def check(backend, device, arithmetic):
    """Hold a backend's kernels for an arithmetic (`Backend.arithmetic`) against plain PyTorch -> `parity.Verdict`.

    Outputs, maps, all gradients, and a training step's losses and gradients, of both ensembles. Half precision is
    autocast's, as it is trained in: parameters and waveforms are float32.
    """
    _multiply_float32_in(arithmetic)
    dtype = DTYPES.get(arithmetic) or getattr(torch, arithmetic)
    autocast = dtype if dtype.itemsize == 2 else None
    waves = [x.to(device) for x in parity.waveforms(BATCH, LENGTH)]
    whole = parity.Verdict()
    for name in parity.ENSEMBLES:
        with device:
            pair = parity.build_pair(name, trained=True)
        twice = [backend, backend]  # what is judged is the second: it runs on what the first has kept, as steps do
        verdict = parity.compare(*pair, *waves, twice, autocast=autocast, steps=True)[backend]
        for kind, (ratio, tensor) in verdict.worst.items():
            whole.add(f"{name}, {kind}", tensor, ratio)
    return whole


def main(backend, device, arithmetic):
    """Print what `trust` makes of `check`, as JSON: whether it `passed`, and figures; or why it is `unchecked`.

    A kernel that faults may end the process before, which is a verdict too.
    """
    with contextlib.redirect_stdout(sys.stderr):
        found = judged(backend, torch.device(device), arithmetic)
    print(json.dumps(found), flush=True)


def judged(backend, device, arithmetic):
    """What `main` prints."""
    try:
        torch.zeros(1, dtype=torch.float32, device=device)
    except Exception as error:  # another process has it for itself, say
        return {"unchecked": f"the device takes no second process: {_line(error)}"}
    try:
        verdict = check(backend, device, arithmetic)
    except torch.OutOfMemoryError as error:
        return {"unchecked": _line(error)}
    except Exception as error:  # whatever the compiler or the device says
        return {"passed": False, "figures": _line(error)}
    return {"passed": verdict.passed, "figures": str(verdict)}


def _line(error):
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
