"""NVRTC: a kernel's source, specialised, becomes code for a device; once, it is kept in the user's cache folder."""

import contextlib
import functools
import hashlib
import importlib.util
from pathlib import Path

from ... import cache
from ..gpu import devices
from .kernel import numbering, records

# Of PTX, which is read by people and tests, with lines of the sources.
OPTIONS = {"cubin": ("--std=c++17", "--device-as-default-execution-space")}
OPTIONS["ptx"] = (*OPTIONS["cubin"], "--generate-line-info")
TARGETS = (75, 80, 86, 89, 90, 100, 120)  # compute capabilities that the kernels are compiled for in tests
KEPT = "cuda"  # of the cache folder
SUM = hashlib.sha256().digest_size  # bytes behind the code in a file: a damaged one is made anew


class CompilationError(RuntimeError):
    """What NVRTC says of a source that it refuses."""


@functools.lru_cache(maxsize=1)
def missing():
    """Why nothing can be compiled, in words; None if it can."""
    try:
        found = importlib.util.find_spec("cuda.bindings")
    except ImportError:  # of no `cuda`, or of another one: a module of the user's
        found = None
    if not found:
        return "cuda-bindings is not installed (pip install 'hifigan-fast[cuda]')"
    try:
        version()
    except (ImportError, RuntimeError, OSError) as error:  # the library is looked for when it is first called
        return f"NVRTC is not installed (pip install 'hifigan-fast[cuda]'): {error}".splitlines()[0]
    return None


def checked(result, whose="NVRTC"):
    """What a call of cuda-bindings returned beside its status; RuntimeError for a status that is none of success."""
    status, *values = result
    if status.value:
        raise RuntimeError(f"{whose}: {status.name}")
    return values[0] if len(values) == 1 else tuple(values)


@functools.lru_cache(maxsize=1)
def version():
    """NVRTC's, (13, 5) say."""
    from cuda.bindings import nvrtc

    return checked(nvrtc.nvrtcVersion())


@functools.lru_cache(maxsize=1)
def known():
    """Compute capabilities that NVRTC compiles for, 90 of 9.0."""
    from cuda.bindings import nvrtc

    return frozenset(checked(nvrtc.nvrtcGetSupportedArchs()))


@functools.lru_cache(maxsize=1)
def folder():
    """Where the sources are: of an installed package in it, of a clone in csrc."""
    installed = Path(__file__).with_name("sources")
    return installed if installed.is_dir() else Path(__file__).resolve().parents[3] / "csrc" / "cuda"


@functools.lru_cache(maxsize=1)
def headers():
    """{name: text} of all that a source may include but its specialisation."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder().glob("*.cuh"))} | {
        "fields.cuh": numbering(),
        "records.cuh": records(),
    }


@functools.cache
def source(name):
    return (folder() / f"{name}.cu").read_text(encoding="utf-8")


def digest():
    """All sources, of kernels and of their launches, in a word."""
    return devices.digest([*folder().glob("*.cu*"), *Path(__file__).parent.glob("*.py")])


def compiled(name, specialised, target, form):
    """The code of the kernel `name`, bytes, from the cache folder where it is there.

    Args:
        specialised: the text of `specialised.cuh`.
        target: compute capability, 90 of 9.0; "90a" with instructions of that and no other.
        form: "ptx" or "cubin".
    """
    return _compiled(*_what(name, specialised, target, form))


def place(*what):
    """The file that `compiled` keeps its code in, a path."""
    return cache.folder() / KEPT / _file(*_what(*what))


def _what(name, specialised, target, form):
    included = headers() | {"specialised.cuh": specialised}
    return name, source(name), tuple(included.items()), version(), target, form


def _file(*what):
    name, *_, target, form = what
    key = hashlib.sha256(repr((*what, OPTIONS[form])).encode()).hexdigest()[:32]
    return f"{name}-sm_{target}-{key}.{form}"


@functools.lru_cache(maxsize=512)
def _compiled(*what):
    name, text, included, _, target, form = what
    file = _file(*what)
    try:
        found = (cache.folder() / KEPT / file).read_bytes()
    except OSError:
        found = b""
    code, sum_of_it = found[:-SUM], found[-SUM:]
    if code and hashlib.sha256(code).digest() == sum_of_it:
        return code
    code = compile_(name, text, dict(included), target, form)
    _keep(file, code + hashlib.sha256(code).digest())
    return code


def _keep(name, code):
    """In its place at once, for all processes; nothing where the folder cannot be written."""
    with contextlib.suppress(OSError):
        cache.put(cache.folder() / KEPT / name, code)


def compile_(name, text, included, target, form):
    """As `compiled`, of the source `text`, by NVRTC, which leaves Python meanwhile."""
    from cuda.bindings import nvrtc

    names, texts = ([text.encode() for text in own] for own in (included, included.values()))
    program = checked(nvrtc.nvrtcCreateProgram(text.encode(), f"{name}.cu".encode(), len(names), texts, names))
    try:
        architecture = f"--gpu-architecture={'compute' if form == 'ptx' else 'sm'}_{target}"
        options = [option.encode() for option in (architecture, *OPTIONS[form])]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status.value:
            log = bytes(checked(nvrtc.nvrtcGetProgramLogSize(program)))
            checked(nvrtc.nvrtcGetProgramLog(program, log))
            said = log.decode(errors="replace").replace("\0", "").strip()
            errors = [line.strip() for line in said.splitlines() if "error" in line]  # not the warnings before them
            raise CompilationError(f"{name}.cu for sm_{target}: {'; '.join(errors) or said}")
        sized, got = (
            (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
            if form == "ptx"
            else (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
        )
        code = bytes(checked(sized(program)))
        checked(got(program, code))
        return code.rstrip(b"\0") if form == "ptx" else code
    finally:
        nvrtc.nvrtcDestroyProgram(program)
