"""What is installed and what this machine can run: `hifigan-fast info`."""

import importlib.metadata
import itertools
import os
import platform

import torch
from tabulate import tabulate

from . import dispatch
from .backends import cpu
from .version import __version__

PACKAGES = ("numpy", "triton", "librosa", "soundfile", "tensorboard", "matplotlib", "tqdm")


def versions():
    """{package: version}, None for one that is not installed."""
    found = {"hifigan_fast": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _extension():
    module, reason = cpu.extension()
    if module is None:
        return reason
    return f"built; runs {module.instruction_set()} of {', '.join(module.instruction_sets())}"


def rows():
    """(what, value) for every line of the report."""
    lines = [(name, version or "not installed") for name, version in versions().items()]
    lines += [
        ("system", platform.platform()),
        ("CPU threads", torch.get_num_threads()),
        ("CPU features (torch)", torch.backends.cpu.get_cpu_capability()),
        ("CUDA", torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"),
        ("C++ extension", _extension()),
    ]
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    for device, (name, backend) in itertools.product(devices, dispatch.BACKENDS.items()):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            refusal = dispatch.refusal(backend, device, dtype)
            what = f"backend {name}, {str(dtype).removeprefix('torch.')} on {device.type}"
            lines.append((what, f"no: {refusal}" if refusal else "yes"))
    for variable, known in (
        (dispatch.VARIABLE, (*dispatch.BACKENDS, dispatch.MODULES)),
        (dispatch.SAVE_VARIABLE, dispatch.SAVED),
        (cpu.ISA_VARIABLE, cpu.extension()[0].instruction_sets() if cpu.extension()[0] else ()),
    ):
        value = os.environ.get(variable)
        lines.append((variable, f"{value or 'not set'} (one of {', '.join(known)})"))
    return lines


def report():
    """The report as text."""
    return tabulate(rows(), tablefmt="plain")
