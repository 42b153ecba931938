"""What is installed and what this machine can run: `hifigan-fast info`."""

import importlib.metadata
import itertools
import os
import platform
import re
import subprocess
from pathlib import Path

import torch
from tabulate import tabulate

from . import dispatch, trust
from .backends import cpu
from .discriminators import MultiPeriodDiscriminator, MultiScaleDiscriminator, stack_of
from .version import __version__

PACKAGES = (
    "numpy",
    "triton",
    "cuda-bindings",
    "nvidia-cuda-nvrtc",
    "librosa",
    "soundfile",
    "tensorboard",
    "matplotlib",
    "tqdm",
)
CUDA_12 = {"nvidia-cuda-nvrtc": "nvidia-cuda-nvrtc-cu12"}  # names of packages whose next version dropped the number
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def versions():
    """{package: version}, None for one that is not installed."""
    found = {"hifigan_fast": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in PACKAGES:
        found[package] = _version(package) or _version(CUDA_12.get(package, package))
    return found


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extension():
    """As `cpu.extension`; a wrong instruction set is a reason: the rest of the report is wanted most then."""
    try:
        return cpu.extension()
    except ValueError as error:
        return None, str(error)


def _built():
    module, reason = _extension()
    return reason or f"built; runs {module.instruction_set()} of {', '.join(module.instruction_sets())}"


def _refusal(backend, device, dtype):
    try:
        return dispatch.refusal(backend, device, dtype)
    except ValueError as error:
        return str(error)


def _said(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def processor():
    """The processor's name as the system has it, "AMD EPYC 9654" say; its architecture where there is none."""
    cpuinfo = Path("/proc/cpuinfo")
    sources = (
        lambda: cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else "",  # Linux on x86
        lambda: _said("lscpu"),  # Linux elsewhere
        lambda: _said("sysctl", "machdep.cpu.brand_string"),  # macOS
    )
    for source in sources:
        found = re.search(r"^(?:model name|machdep\.cpu\.brand_string)\s*:\s*(\S.*?)\s*$", source(), re.M | re.I)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _devices():
    return [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def _backend(backend):
    """What a backend runs here, in a line; why nothing, where it is nothing."""
    runs = {
        device.type: [str(dtype)[6:] for dtype in DTYPES if not _refusal(backend, device, dtype)]
        for device in _devices()
    }
    if not any(runs.values()):
        return "no: " + "; ".join({_refusal(backend, device, DTYPES[0]): None for device in _devices()})
    return "; ".join(f"{', '.join(dtypes)} on {device}" for device, dtypes in runs.items() if dtypes)


def _backends(verbose):
    """(what, value) for every backend; with `verbose` for each of its devices and dtypes."""
    if not verbose:
        return [(f"backend {name}", _backend(backend)) for name, backend in dispatch.BACKENDS.items()]
    lines = []
    for device, (name, backend), dtype in itertools.product(_devices(), dispatch.BACKENDS.items(), DTYPES):
        refusal = _refusal(backend, device, dtype)
        lines.append((f"backend {name}, {str(dtype)[6:]} on {device.type}", f"no: {refusal}" if refusal else "yes"))
    return lines


def _trusted():
    """(what, value) for every arithmetic of a backend whose kernels are checked before they are used here."""
    lines = []
    for backend, device in itertools.product(dispatch.BACKENDS.values(), _devices()):
        able = [dtype for dtype in DTYPES if _refusal(backend, device, dtype) is None]
        verdicts = trust.kept(backend, device) if able else None
        if verdicts is None:
            continue
        for arithmetic in dict.fromkeys([*(backend.arithmetic(device, dtype) for dtype in able), *verdicts]):
            lines.append((f"check of {backend.name}, {arithmetic}", _verdict(verdicts.get(arithmetic))))
        if backend.advice(device):
            lines.append((f"speed of {backend.name}", backend.advice(device)))
    return lines


def _layers():
    """HiFi-GAN's, but for stems and heads; seconds, which a backend that runs all itself does not ask for."""
    with torch.device("meta"):
        nets = [*MultiPeriodDiscriminator().discriminators, *MultiScaleDiscriminator().discriminators]
    yield from dict.fromkeys(layer for net in nets for layer in stack_of(net).layers[1:-1])


def _by_others():
    """(what, value) for every backend and dtype where kernels of others run some of HiFi-GAN's layers."""
    for backend, device, dtype in itertools.product(dispatch.BACKENDS.values(), _devices(), DTYPES):
        words = _refusal(backend, device, dtype) is None and backend.by_others(device, dtype, _layers())
        if words:
            yield f"within {backend.name}, {str(dtype)[6:]}", words


def _verdict(verdict):
    if verdict is None:
        return "not yet, its first use is checked" if trust.mode() != "0" else "none, trusted"
    return f"{'passed' if verdict['passed'] else 'FAILED'} on {verdict['date']}: {verdict['figures']}"


def rows(verbose=False):
    """(what, value) for every line of the report."""
    lines = [(name, version or "not installed") for name, version in versions().items()]
    lines += [
        ("system", platform.platform()),
        ("processor", processor()),
        ("CPU threads", torch.get_num_threads()),
        ("CPU features (torch)", torch.backends.cpu.get_cpu_capability()),
        ("CUDA", torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"),
        ("C++ extension", _built()),
        *_backends(verbose),
        *_by_others(),
        *_trusted(),
    ]
    module, _ = _extension()
    for variable, known in (
        (dispatch.VARIABLE, (*dispatch.BACKENDS, dispatch.MODULES)),
        (dispatch.SAVE_VARIABLE, dispatch.SAVED),
        (trust.VARIABLE, trust.MODES),
        (cpu.ISA_VARIABLE, module.instruction_sets() if module else ()),
    ):
        value = os.environ.get(variable)
        wrong = "NOT " if value and value not in known else ""
        among = f" ({wrong}one of {', '.join(known)})" if known else ""
        lines.append((variable, f"{value or 'not set'}{among}"))
    return lines


def report(verbose=False):
    """The report as text: a line a backend, with `verbose` one for each of its devices and dtypes."""
    return tabulate(rows(verbose), tablefmt="plain")
