"""Whether a backend's kernels are trusted on a device: they are checked at the first contact, and the verdict is kept.

The check (`self_check`) runs in a process of its own: a kernel that faults or never ends takes no training run with it,
nothing of this process's state (a capture, a compilation, random numbers, autocast) is in its way, and what it compiles
is ready for the first step.
"""

import datetime
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings

import torch

from . import cache

VARIABLE = "HIFIGAN_FAST_SELF_CHECK"
MODES = ("0", "1", "always")  # never, once for these versions, once a process
FILE = "verdicts.json"
SECONDS = 600  # a check takes seconds, and compiles first; after this it hangs
# Of a process that ends by another signal, or by an exception before it checks, nothing is known.
FAULTS = {signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, getattr(signal, "SIGBUS", signal.SIGSEGV)}

log = logging.getLogger("hifigan_fast")


def mode():
    """What the environment says of checks, one of `MODES`; ValueError for anything else."""
    said = os.environ.get(VARIABLE) or "1"
    if said not in MODES:
        raise ValueError(f"{VARIABLE}: got {said!r}, expected one of {', '.join(MODES)}")
    return said


def kept(backend, device):
    """The verdicts on a backend's kernels on `device` so far, {arithmetic: verdict}; None where none is needed.

    A verdict is a dict: passed; figures, in words; date; seconds.
    """
    contact = backend.contact(device)
    return None if contact is None else _kept(f"{backend.name}: {cache.key(contact)}")


def _kept(place):
    found = cache.read(FILE).get(place)
    return {name: v for name, v in found.items() if _is_verdict(v)} if isinstance(found, dict) else {}


def _is_verdict(value):
    return isinstance(value, dict) and isinstance(value.get("passed"), bool) and {"figures", "date"} <= value.keys()


def distrust(backend, device, dtype):
    """Why the kernels of `backend` for maps of `dtype` are not used on `device`, in words; None where they are.

    The first time for a device and these versions it checks them, or waits for the process that does.
    """
    return _distrust(backend, device, backend.arithmetic(device, dtype))


@functools.lru_cache(maxsize=64)
def _distrust(backend, device, arithmetic):
    contact = backend.contact(device)
    if contact is None or mode() == "0":
        return None
    name, place = contact["device"], f"{backend.name}: {cache.key(contact)}"

    def known():
        return None if mode() == "always" else _kept(place).get(arithmetic)

    found = known()
    if found is None:
        with cache.locked(FILE, SECONDS + 60):  # and known then, if another process had it, or was given up
            found = known() or _checked(backend, device, arithmetic, name, place)
    if found.get("passed"):
        if backend.advice(device):
            _say(backend.advice(device))
        return None
    if "unchecked" in found:
        reason = f"its {arithmetic} kernels are unchecked on {name}: {found['unchecked']}; {VARIABLE}=0 trusts them"
    else:
        reason = (
            f"its {arithmetic} kernels failed their check on {name}: {found['figures']}; please report this line and "
            f"what `hifigan-fast info` prints; {VARIABLE}=always checks them again"
        )
    if torch._guards.TracingContext.try_get() is not None:  # who runs slower for it says so, but while it is compiled
        warnings.warn(f"hifigan_fast: {backend.name}: {reason}", stacklevel=2)
    return reason


@functools.lru_cache(maxsize=64)
def _say(line):
    """Once a process."""
    log.warning("hifigan_fast: %s", line)


def _checked(backend, device, arithmetic, name, place):
    """A new verdict, kept where that can be; a dict with `unchecked`, a reason in words, where there is none."""
    _say(f"first use of {backend.name} on {name} in {arithmetic}: checking its kernels against plain PyTorch, once")
    begun = time.monotonic()
    found = run(backend.name, str(device), arithmetic)
    if "unchecked" in found:
        return found
    seconds = round(time.monotonic() - begun, 1)
    found |= {"date": datetime.date.today().isoformat(), "seconds": seconds}
    try:
        cache.keep(FILE, lambda entries: entries.update({place: _kept(place) | {arithmetic: found}}))
    except OSError as error:
        _say(f"the verdict cannot be kept, each process checks for itself: {error}")
    _say(f"checked {backend.name} in {arithmetic} in {seconds} s: {found['figures']}")
    return found


def run(backend, device, arithmetic):
    """`self_check.main` in a process of its own -> what it says: `passed`, with figures, or `unchecked`, and why."""
    call = f"self_check.main({backend!r}, {device!r}, {arithmetic!r})"
    path = list(map(str, sys.path))
    code = f"import os, sys; sys.path[:] = {path!r}; from hifigan_fast import self_check; {call}; os._exit(0)"
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HIFIGAN_FAST_")}
    try:
        done = subprocess.run(
            [sys.executable or "python", "-W", "ignore", "-c", code],
            env=ours | {VARIABLE: "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"passed": False, "figures": f"no end within {SECONDS} s"}
    except OSError as error:
        return {"unchecked": f"no process to check in: {error}"}
    try:
        found = json.loads(done.stdout.splitlines()[-1])  # whatever this Python prints when it begins
    except (ValueError, IndexError):
        found = None
    if isinstance(found, dict):
        return found
    last = (done.stderr.strip() or "nothing said").splitlines()[-1]
    how = f"the check ended with status {done.returncode}: {last}"
    return {"passed": False, "figures": how} if -done.returncode in FAULTS else {"unchecked": how}
