"""What a device is asked for, also one that is not there: CPU tensors stand for its own."""

import contextvars
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from ...scoped import within
from ...version import __version__

_absent = contextvars.ContextVar("hifigan_fast_absent_device", default=None)


@dataclass(frozen=True)
class Absent:
    """A device that is not there.

    Attributes:
        name: "sm_90" of an NVIDIA device of compute capability 9.0, "gfx942" of an AMD one.
        tf32: whether float32 is multiplied in TF32.
    """

    name: str
    tf32: bool = False
    multiprocessors: int = 132

    @property
    def capability(self):
        return self.name if self.name.startswith("gfx") else divmod(int(self.name[3:]), 10)


def absent():
    """The `Absent` device that CPU tensors stand for; None where they are the CPU's."""
    return _absent.get()


def standing_for(device):
    """Within the block (of this thread) CPU tensors stand for those of the `Absent` device."""
    return within(_absent, device)


def asked_for_tf32():
    """Whether PyTorch is set so that cuDNN's convolutions multiply float32 in TF32."""
    conv = getattr(torch.backends.cudnn, "conv", None)  # since torch 2.9, where allow_tf32 may raise
    return conv.fp32_precision == "tf32" if hasattr(conv, "fp32_precision") else torch.backends.cudnn.allow_tf32


@functools.cache
def _capability(device):
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName
    return torch.cuda.get_device_capability(device)


def capability(device):
    """(major, minor) of an NVIDIA device, a name such as "gfx942" of an AMD one; None of a CPU that is one."""
    return _capability(device) if device.type != "cpu" else absent() and absent().capability


def tf32(device):
    """Whether float32 is multiplied in TF32: where cuDNN's convolutions would be asked to, and the device has it."""
    if device.type != "cuda" or torch.version.hip:
        return bool(absent() and absent().tf32)
    return asked_for_tf32() and capability(device) >= (8, 0)


def exact(layer):
    """Whether float32 is never multiplied in TF32: memory bounds a layer of one channel."""
    return 1 in (layer.in_channels, layer.out_channels)


def arithmetic(like, layer=None):
    """What a layer (any that is not `exact`) multiplies maps like this tensor in: "half", "tf32" or "float32"."""
    if like.itemsize == 2:
        return "half"
    return "tf32" if tf32(like.device) and not (layer and exact(layer)) else "float32"


def precision(like, layer=None):
    """Of products of float32 operands; other maps take no notice of it."""
    return "tf32" if arithmetic(like, layer) == "tf32" else "ieee"


@functools.cache
def _multiprocessors(device):
    return torch.cuda.get_device_properties(device).multi_processor_count


def multiprocessors(device):
    if device.type == "cuda":
        return _multiprocessors(device)
    return absent().multiprocessors if absent() else 1


def contact(device, **compiler):
    """What kernels meet on a CUDA device, {what: name or version}; `compiler`: theirs."""
    found = {"device": torch.cuda.get_device_name(device), "hifigan_fast": __version__, "torch": torch.__version__}
    return found | compiler | {"driver": _driver()}


def _driver():
    """The kernel's driver and the library's, as far as they say it."""
    files = (Path(path) for path in ("/sys/module/nvidia/version", "/sys/module/amdgpu/version"))
    found = [path.read_text(encoding="utf-8").strip() for path in files if path.exists()]
    library = getattr(torch._C, "_cuda_getDriverVersion", None)
    return " / ".join([*found, *([str(library())] if library else [])]) or "unknown"


def digest(sources):
    """Some files, and those of this layer, which launches what they say: in a word."""
    found = hashlib.sha256()
    for path in sorted(sources) + sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]
