"""Who runs a layer, and with which blocks: a table by device generation, direction, arithmetic and layer class.

Not by lengths: a training run never meets a configuration that no test compiled. What `tune` measured on a device, with
these versions, is kept in the user's cache folder and takes the place of the table's.
"""

import contextvars
import functools
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ... import cache
from ...scoped import within
from .. import gpu

TABLE = Path(__file__).with_name("configs.json")
MEASURED = "tuned.json"
INTERPRETER = "interpreter"
DIRECTIONS = ("forward", "input_grad", "weight_grad")
CLASSES = ("stem", "narrow", "middle", "grouped", "dense", "head")
LIBRARY_CLASSES = ("narrow", "middle", "grouped", "dense")  # which others may run, too
WAYS = ("triton", "cuda", "library")  # who may run a class


@dataclass(frozen=True)
class Config:
    """BM × BN results a program, BK of the sum at a time. A weight gradient's rows are out channels, its sum rows.

    Attributes:
        by: of `WAYS` the fastest, which runs where it can: Triton's kernel, CUDA C++'s, or PyTorch's own convolution.
        stretch: rows of the layer that are one of the matrix (`convolution`): in no table, it follows from the columns.
    """

    BM: int
    BN: int
    BK: int
    num_warps: int
    num_stages: int
    by: str = "triton"
    stretch: int = 1

    def arguments(self):
        """As the kernels name them."""
        own = asdict(self)
        del own["by"]
        return own | {"STRETCH": own.pop("stretch")}


def layer_class(role, layer):
    """Which configurations a layer shares: narrow groups have at most 16 channels on either side, middle
    ones 32, grouped ones 64."""
    if role != "conv":
        return role
    widest = max(layer.in_channels, layer.out_channels) // layer.groups
    return next((name for name, most in (("narrow", 16), ("middle", 32), ("grouped", 64)) if widest <= most), "dense")


def like(table, leaf):
    """{generation: {direction: {arithmetic: {layer class: leaf(of these four)}}}}, for each entry of such a table."""
    return {
        g: {d: {a: {name: leaf(g, d, a, name) for name in of} for a, of in kinds.items()} for d, kinds in under.items()}
        for g, under in table.items()
    }


@functools.lru_cache(maxsize=1)
def table():
    """{generation: {direction: {arithmetic: {layer class: Config}}}}, as the package ships it."""
    read = json.loads(TABLE.read_text())
    return like(read, lambda generation, direction, kind, name: Config(*read[generation][direction][kind][name]))


def generation_of(capability):
    """The table's entry for a device: its own generation, or the latest before it.

    Args:
        capability: (major, minor) of an NVIDIA device, a name such as "gfx942" of an AMD one, None in the interpreter.
    """
    if capability is None:
        return INTERPRETER
    if isinstance(capability, str):
        return "gfx942"
    known = sorted(int(name[3:]) for name in table() if name.startswith("sm_"))
    number = capability[0] * 10 + capability[1]
    return f"sm_{max((k for k in known if k <= number), default=known[0])}"


_changes = 0  # of what is measured
_tried = contextvars.ContextVar("hifigan_fast_triton_config", default=None)


def trying(config):
    """Within the block every launch that takes a configuration takes this one."""
    return within(_tried, config)


@functools.cache
def contact(device):
    """What these kernels are and what they meet on a CUDA device, {what: name or version}."""
    import triton

    kernels = gpu.devices.digest(Path(__file__).parent.glob("*.py"))
    return gpu.devices.contact(device, triton=triton.__version__) | {"kernels": kernels}


def place(device):
    """What the measurements on a CUDA device are kept by."""
    return cache.key(contact(device))


def measurements(device):
    """What was measured on a CUDA device with these versions: {"direction, arithmetic, class": entry}.

    An entry is a dict: generation; config, as the table has it; ms, {of `WAYS`: milliseconds of the class's layers}.
    """
    found = cache.read(MEASURED).get(place(device))
    return {what: entry for what, entry in found.items() if _is_entry(entry)} if isinstance(found, dict) else {}


def _is_entry(value):
    config = value.get("config") if isinstance(value, dict) else None
    return isinstance(config, list) and len(config) in (5, 6) and all(by in WAYS for by in config[5:])


def devices():
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


@functools.cache
def measured():
    """{(generation, direction, arithmetic, class): Config} of this process's devices; of two alike, the first's."""
    found = {}
    for device in devices():
        for what, entry in measurements(device).items():
            found.setdefault((entry.get("generation"), *what.split(", ")), Config(*entry["config"]))
    return found


def state():
    """What `config` goes by beside its arguments: another value where it may say something else."""
    return _tried.get(), id(table()), _changes


def forget_measured():
    """Have `measured` read again."""
    global _changes
    measured.cache_clear()
    _changes += 1


def config(generation, direction, arithmetic, name):
    """Args: arithmetic: "half" for bfloat16 and float16 maps, "tf32" (no stems and heads) or "float32" for float32
    ones."""
    where = generation, direction, arithmetic, name
    return _tried.get() or measured().get(where) or table()[generation][direction][arithmetic][name]


def of(direction, role, layer, like):
    """`config` of a layer for maps like a tensor."""
    generation = generation_of(gpu.devices.capability(like.device))
    return config(generation, direction, gpu.devices.arithmetic(like, layer), layer_class(role, layer))


def in_use():
    """The table as launches take it: with what was measured."""
    return like(table(), config)


def digest():
    """The configurations in use, in a word."""
    return hashlib.sha256(repr(in_use()).encode()).hexdigest()[:12]
