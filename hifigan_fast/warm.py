"""The kernels of a training run by the Triton backend, compiled before they are needed: `hifigan-fast warm`.

A pack is what Triton's cache keeps of them but for their intermediate forms, and what this package's keeps of those in
CUDA C++ that run some of the layers: a zip file of a few MB. It is read by the same versions of this package and of
Triton as made it; on a device of another generation nothing of it is found, nor of CUDA C++ by another NVRTC.
"""

import importlib.util
import json
import re
import time
import zipfile
import zlib
from pathlib import Path

import torch

from . import cache, dispatch
from .backends.cuda import compiler
from .backends.gpu.devices import Absent, asked_for_tf32
from .backends.triton import ahead
from .bench import steps as timed
from .bench.workloads import ENSEMBLES, build
from .version import __version__

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMED = re.compile(r"sm_(?:[89]|1\d)\d|gfx9\w\w")
KEPT = (".json", ".cubin", ".hsaco")  # of what Triton keeps of a kernel: what a launch needs
MANIFEST = "manifest.json"
# What reading one raises where a byte is another: in compressed data, in a flag that then says encrypted, in an offset.
DAMAGE = zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, KeyError, AttributeError, UnicodeDecodeError
KEY = re.compile("[0-9a-f]{64}")  # of a kernel: a hash, as Triton has it
CUBIN = re.compile(r"\w+-sm_\d+-[0-9a-f]{32}\.cubin")  # of a kernel in CUDA C++: its file
SHAPE = 2, 1, 2048  # of waveforms: kernels are the same for every batch and length


def _steps(modules, y, y_hat):
    """The steps of `hifigan-fast train`, and of loops that take the losses apart and may not freeze discriminators."""
    for step in (
        timed.discriminator_step_by_one_loss,
        timed.generator_step_by_one_loss,
        timed.discriminator_step,
        timed.frozen_generator_step,
        timed.generator_step,
    ):
        step(modules, y, y_hat, timed.FastLosses)


def this_device():
    """The name of this machine's GPU among targets; ValueError where there is none that the kernels run on."""
    device = torch.device("cuda")
    reason = dispatch.BACKENDS["triton"].cannot_run(device, torch.float32) if torch.cuda.is_available() else "no GPU"
    if reason:
        raise ValueError(f"target: expected a device's name, sm_90 say, since none can be used here: {reason}")
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def compiled(target, precision, modules=None, steps=_steps):
    """Compile the kernels of `steps` for a device, there or not, into Triton's cache and this package's.

    Returns the compiled kernels: Triton's, and the files of those in CUDA C++.

    Args:
        target: as Triton names it, "sm_90" say.
        precision: of `PRECISIONS`; float32 is multiplied in TF32 where PyTorch is set so.
        modules: the discriminators; default: HiFi-GAN's.
    """
    modules = build(ENSEMBLES["both"], plain=False) if modules is None else modules
    dtype, y = PRECISIONS[precision], torch.zeros(SHAPE, dtype=torch.float32, device="cpu")
    tf32 = target.startswith("sm_") and asked_for_tf32()
    half = torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None)
    with (
        ahead.pretending(Absent(target, tf32)),
        dispatch.use_backend("triton"),
        ahead.side_by_side() as asked,
        half,
    ):
        steps(modules, y, y.clone())
    return [future.result() for future in asked]


def _versions():
    import triton

    return {"hifigan_fast": __version__, "triton": triton.__version__}


def _apart(kernels):
    """{hash: one of Triton's}, {name: file of one in CUDA C++}"""
    files = {kernel.name: kernel for kernel in kernels if isinstance(kernel, Path)}
    return {kernel.hash: kernel for kernel in kernels if not isinstance(kernel, Path)}, files


def pack(path, kernels, target):
    """Write compiled kernels to a zip file -> its size in bytes."""
    by_triton, cubins = _apart(kernels)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(MANIFEST, json.dumps({**_versions(), "target": target}))
        for name, source in cubins.items():
            file.write(source, f"{compiler.KEPT}/{name}")
        for kernel in by_triton.values():
            for name, source in kernel.metadata_group.items():
                if Path(name).suffix in KEPT:
                    file.write(source, f"{kernel.hash}/{name}")
    return Path(path).stat().st_size


def unpack(path):
    """Put a pack's kernels where they are looked for -> (how many, the device's name).

    ValueError for what is no pack, a damaged one, or one of other versions, before any kernel is put there.
    """
    from triton.runtime.cache import get_cache_manager

    with open(path, "rb") as file:  # an OSError names it
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path}: expected a pack of `hifigan-fast warm --out`, got another kind of file")
    try:
        target, kernels, cubins = _read(path)
    except (*DAMAGE, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: a damaged pack: {str(error) or type(error).__name__}") from None
    for key, files in kernels.items():
        own = get_cache_manager(key)
        placed = {name: own.put(data, name, binary=True) for name, data in files.items()}
        own.put_group(next(name for name in files if name.endswith(".json")), placed)
    for name, code in cubins.items():
        cache.put(cache.folder() / compiler.KEPT / name, code)
    return len(kernels) + len(cubins), target


def _read(path):
    """(the device's name, {Triton's key: {file name: bytes}}, {file name of CUDA C++: bytes}) of a pack."""
    with zipfile.ZipFile(path) as file:
        members = [member for member in file.namelist() if not member.endswith("/")]
        if MANIFEST not in members:
            raise ValueError(f"{path}: expected a pack of `hifigan-fast warm --out`, got a zip file without {MANIFEST}")
        manifest, kernels = json.loads(file.read(MANIFEST)), {}
        for name, version in _versions().items():
            if manifest.get(name) != version:
                raise ValueError(f"{path}: made with {name} {manifest.get(name)}, here is {version}: pack it again")
        for member in members:
            if member != MANIFEST:
                key, _, name = member.partition("/")
                kernels.setdefault(key, {})[Path(name).name] = file.read(member)
    cubins = kernels.pop(compiler.KEPT, {})
    if not all(map(CUBIN.fullmatch, cubins)):
        raise ValueError(f"{path}: a damaged pack: {compiler.KEPT} has the files {', '.join(cubins)}")
    for key, files in kernels.items():
        if not KEY.fullmatch(key):
            raise ValueError(f"{path}: expected kernels by Triton's keys, got {key!r}")
        if sum(name.endswith(".json") for name in files) != 1:
            raise ValueError(f"{path}: a damaged pack: {key} has the files {', '.join(files)}")
    return manifest["target"], kernels, cubins


def run(target, precisions, out=None, source=None, say=print):
    """The command: compile and pack, or unpack `source`. ValueError where no device is named and none is there, and for
    what has no meaning beside `source`.
    """
    if importlib.util.find_spec("triton") is None:
        raise ImportError("warm needs Triton, which compiles the kernels: pip install triton")
    if source is not None:
        if target or out:
            raise ValueError(
                f"from: expected no {'target' if target else 'out'} beside a pack, all of which is unpacked"
            )
        say("unpacked {} kernels for {}".format(*unpack(source)))
        return 0
    target, begin, kernels = target or this_device(), time.perf_counter(), []
    if not NAMED.fullmatch(target):
        raise ValueError(f"target: expected sm_80 or later, or gfx942 or its like, got {target!r}")
    if out is not None and not Path(out).absolute().parent.is_dir():
        raise ValueError(f"out: expected a file in a folder that is there, got {out}")
    for precision in precisions:
        kernels += compiled(target, precision)
    count = sum(map(len, _apart(kernels)))
    say(f"compiled {count} kernels for {target}, {', '.join(precisions)}: {time.perf_counter() - begin:.0f} s")
    if out is not None:
        say(f"packed: {out}, {pack(out, kernels, target) / 1e6:.1f} MB")
    return 0
