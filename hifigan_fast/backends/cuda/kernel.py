"""A kernel as its source knows it, and what it is specialised for: types, constants and numbers of fields."""

from dataclasses import dataclass

import torch

from ..gpu import fields

TYPES = {
    torch.float32: "float",
    torch.bfloat16: "Bfloat16",
    torch.float16: "Float16",
    torch.int64: "long long",
    torch.int32: "int",
}
# Prefixes of the constants that number a row's fields.
ROWS = {"RUN": fields.Run, "NORM": fields.Norm, "PACK": fields.Pack, "FINISH": fields.Finish, "SET": fields.Set}
ROWS |= {"SPECTRAL": fields.Spectral, "CHUNK": fields.Chunk, "PAIR": fields.Pair, "PART": fields.Part}
RECORDS = fields.Run, fields.Tile, fields.PhaseTile, fields.Span  # rows that kernels read as structures
HOST_ONLY = ("launch_cooperative_grid",)


@dataclass(frozen=True)
class Kernel:
    """An entry of a source in csrc/cuda.

    Attributes:
        name: of the entry; source: the file's, without its ending.
        parameters: their names in order.
        threads: of a block, where a launch does not say THREADS.
    """

    name: str
    parameters: tuple[str, ...]
    threads: int = 256
    source: str = ""

    @property
    def __name__(self):
        return self.source


def arguments(kernel, args, meta):
    """Arguments in order of the parameters, some of them given by name; and the constants."""
    rest = {"THREADS": kernel.threads} | meta
    named = tuple([rest.pop(name) for name in kernel.parameters[len(args) :]])
    return args + named, rest


def kind(argument):
    """What a kernel is compiled for of an argument: of pointers their dtype, of a tuple also how many."""
    if isinstance(argument, torch.Tensor):
        return argument.dtype
    if isinstance(argument, tuple):
        return len(argument), next((t.dtype for t in argument if t is not None), torch.float32)
    return torch.float32 if argument is None else type(argument)


def specialisation(kernel, args, constants):
    """The header `specialised.cuh` of a kernel for its arguments (all of them) and constants.

    A parameter p that points has the element type p_t; a tuple of pointers has also their number p_n. PRECISION is a
    flag, TF32.
    """
    lines = ["#pragma once", '#include "elements.cuh"']
    for name, argument in zip(kernel.parameters, args, strict=True):
        of = kind(argument)
        if isinstance(of, tuple):
            lines += [f"using {name}_t = {TYPES[of[1]]};", f"enum {{ {name}_n = {of[0]} }};"]
        elif isinstance(of, torch.dtype):
            lines.append(f"using {name}_t = {TYPES[of]};")
    for name, value in constants.items():
        if name == "PRECISION":
            name, value = "TF32", value == "tf32"
        if name not in HOST_ONLY:
            lines.append(f"#define {name} {str(value).lower() if isinstance(value, bool) else value}")
    return "\n".join(lines) + "\n"


def numbering():
    """The header `fields.cuh`: numbers of the fields of tables' rows, RUN_PERIOD say, and how many a row has."""
    lines = ["#pragma once"]
    for prefix, row in ROWS.items():
        names = ", ".join(f"{prefix}_{field.name} = {int(field)}" for field in row)
        lines.append(f"enum {{ {names}, {prefix}_FIELDS = {len(row)} }};")
    lines.append(f"enum {{ MOST_SETS = {fields.MOST_SETS}, FINISH_ALL_FIELDS = {fields.FINISH_FIELDS} }};")
    return "\n".join(lines) + "\n"


def records():
    """The header `records.cuh`: rows of tables as structures, of their names in small letters."""
    rows = ((row.__name__, ", ".join(field.name.lower() for field in row)) for row in RECORDS)
    return "\n".join(["#pragma once", *(f"struct {name} {{ long long {names}; }};" for name, names in rows)]) + "\n"
