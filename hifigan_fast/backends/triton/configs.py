"""Block sizes, warps and pipeline stages: a table by device generation, direction, arithmetic and layer class.

Not by lengths: a training run never meets a configuration that no test compiled.
"""

import contextlib
import contextvars
import functools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("configs.json")
INTERPRETER = "interpreter"
DIRECTIONS = ("forward", "input_grad", "weight_grad")
CLASSES = ("stem", "narrow", "grouped", "dense", "head")
LIBRARY_CLASSES = ("narrow", "grouped", "dense")  # where PyTorch's own convolution may run


@dataclass(frozen=True)
class Config:
    """BM × BN results a program, BK of the sum at a time. A weight gradient's rows are out channels, its sum rows.

    Attributes:
        library: PyTorch's own convolution is faster, and runs in the place of our kernel.
    """

    BM: int
    BN: int
    BK: int
    num_warps: int
    num_stages: int
    library: bool = False

    def arguments(self):
        return {name: number for name, number in asdict(self).items() if name != "library"}


def layer_class(role, layer):
    """Which configurations a layer shares: narrow groups have at most 16 channels on either side, grouped ones 64."""
    if role != "conv":
        return role
    widest = max(layer.in_channels, layer.out_channels) // layer.groups
    return "narrow" if widest <= 16 else "grouped" if widest <= 64 else "dense"


@functools.lru_cache(maxsize=1)
def table():
    """{generation: {direction: {arithmetic: {layer class: Config}}}}, as the package ships it."""
    read = json.loads(TABLE.read_text())
    return {
        generation: {
            direction: {
                arithmetic: {name: Config(*numbers) for name, numbers in classes.items()}
                for arithmetic, classes in kinds.items()
            }
            for direction, kinds in directions.items()
        }
        for generation, directions in read.items()
    }


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


_tried = contextvars.ContextVar("hifigan_fast_triton_config", default=None)


@contextlib.contextmanager
def trying(config):
    """Within the block every launch that takes a configuration takes this one."""
    token = _tried.set(config)
    try:
        yield
    finally:
        _tried.reset(token)


def state():
    """What `config` goes by beside its arguments: another value where it may say something else."""
    return _tried.get(), id(table())


def config(generation, direction, arithmetic, name):
    """Args: arithmetic: "half" for bfloat16 and float16 maps, "tf32" or "float32" for float32 ones."""
    return _tried.get() or table()[generation][direction][arithmetic][name]
