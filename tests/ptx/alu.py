"""Arithmetic, conversions and moves: of an instruction and the lanes, a function of the mask of active lanes.

A mask is an array of lanes, or True for all.
"""

import numpy as np

from .faults import Unsupported
from .lanes import TYPES, bytes_of, narrow, widen
from .parse import Reg, Symbol, Vector

FLOATS = ("f16", "f32", "bf16")
PAIRS = ("f16x2", "bf16x2")
SINK = Symbol("_")  # what is moved there is not wanted
NAN = {2: np.array(0x7FFF, np.uint16).view(np.float16), 4: np.array(0x7FFFFFFF, np.uint32).view(np.float32)}


def _numbers(operand, lanes, kind):
    """An operand's numbers; of pairs both, each lane's lower half first. bfloat16 as bits."""
    values = lanes.view(operand, kind)
    if kind not in PAIRS:
        return values
    return (values if np.ndim(values) else np.full(lanes.count, values)).view(TYPES[kind[:-2]])


def _elementwise(ufunc):
    """d = ufunc(operands), by numpy itself; of bfloat16 by float32."""

    def build(i, lanes):
        if lanes.register(i.operands[0]).itemsize != bytes_of(i.kind):
            raise Unsupported(i.text)
        d, *sources = (_numbers(o, lanes, i.kind) for o in i.operands)
        each = (lambda m: m if m is True else np.repeat(m, 2)) if i.kind in PAIRS else lambda m: m
        if i.kind.startswith("bf16"):
            return lambda m: np.copyto(d, narrow(ufunc(*map(widen, sources))), where=each(m))
        if d.dtype.kind != "f" or d.itemsize not in NAN:
            return lambda m: ufunc(*sources, out=d, where=each(m), casting="same_kind")

        def run(m):
            ufunc(*sources, out=d, where=each(m), casting="same_kind")
            if (nan := np.isnan(d)).any():  # the hardware's is always the same, numpy's the first operand's
                np.copyto(d, NAN[d.itemsize], where=nan & each(m))

        return run

    return build


def _extreme(of_numbers, of_all):
    """min and max: a NaN loses, but where it is asked for."""
    return lambda i, lanes: _elementwise(of_all if "NaN" in i.mods else of_numbers)(i, lanes)


def _logical(of_bits, of_predicates):
    return lambda i, lanes: _elementwise(of_predicates if i.kind == "pred" else of_bits)(i, lanes)


def _quotient(a, b):
    """Integer division, towards zero; 0 where b is 0."""
    return a // b if np.asarray(a).dtype.kind == "u" else (a - np.fmod(a, b)) // b


def _divide(i, lanes):
    if i.kind == "f32":
        return _elementwise(np.divide)(i, lanes)
    return _assigned(_quotient, i, lanes)


def _assigned(function, i, lanes):
    """d = function(operands), whatever it returns."""
    d, *sources = (lanes.view(o, i.kind) for o in i.operands)
    return lambda m: np.copyto(d, function(*sources), where=m, casting="unsafe")


def _high(a, b):
    """The upper half of a product."""
    size = 8 * np.asarray(a).dtype.itemsize
    if size == 64:
        raise Unsupported("mul.hi of 64 bits")
    wide = f"{np.asarray(a).dtype.kind}{size // 4}"
    return np.asarray(a).astype(wide) * np.asarray(b).astype(wide) >> np.array(size, wide)


def _fused(a, b, c, out=None, **how):
    """a · b + c by float64; to `out` rounded once."""
    exact = np.asarray(a, np.float64) * b + c
    return exact if out is None else np.copyto(out, exact, **how)


def _multiply(i, lanes):
    """mul, mad and fma: of integers their low, high or whole product; of floats rounded once, by float64."""
    added = len(i.operands) == 4
    if "wide" in i.mods:
        wide = f"{i.kind[0]}{2 * int(i.kind[1:])}"
        d, a, b, *c = (lanes.view(o, i.kind if n in (1, 2) else wide) for n, o in enumerate(i.operands))
        dtype = TYPES[wide]
        return lambda m: np.copyto(d, a.astype(dtype) * b.astype(dtype) + (c[0] if c else dtype(0)), where=m)
    if i.kind in FLOATS + PAIRS:
        return _elementwise(_fused if added else np.multiply)(i, lanes)
    product = _high if "hi" in i.mods else np.multiply
    return _assigned((lambda a, b, c: product(a, b) + c) if added else product, i, lanes)


def _shift(ufunc):
    def build(i, lanes):
        d, a = (lanes.view(o, i.kind) for o in i.operands[:2])
        by = lanes.view(i.operands[2], "s32" if i.kind[0] == "s" else "u32")
        return lambda m: ufunc(a, by, out=d, where=m, casting="same_kind")

    return build


def _sign(of_bits, of_integers):
    """neg and abs: of floats, also of a NaN, by their sign bits."""

    def build(i, lanes):
        if i.kind not in FLOATS + PAIRS:
            return _elementwise(of_integers)(i, lanes)
        bits = f"u{8 * bytes_of(i.kind)}"
        d, a = (lanes.view(o, bits) for o in i.operands)
        signs = d.dtype.type(0x80008000 if i.kind in PAIRS else 1 << 8 * d.itemsize - 1)
        return lambda m: of_bits(a, signs, out=d, where=m)

    return build


COMPARISONS = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater}
COMPARISONS |= {"ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
WAYS = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def _comparison(name, floats):
    """A function of two operands. Of floats an ordered comparison is false where one is NaN, an unordered (…u) true."""
    if floats and name in ("num", "nan"):
        return lambda a, b: (np.isnan(a) | np.isnan(b)) == (name == "nan")
    unordered = floats and name.endswith("u")
    compared = COMPARISONS.get(name[:-1] if unordered else name)
    if compared is None:
        raise Unsupported(f"setp.{name}")
    if unordered:
        return lambda a, b: compared(a, b) | np.isnan(a) | np.isnan(b)
    return (lambda a, b: (a < b) | (a > b)) if floats and name == "ne" else compared  # numpy's others are ordered


def _compare(i, lanes):
    """setp, of pairs of the lower halves and of the upper ones; joined with another predicate, if asked."""
    compared = _comparison(i.mods[0], i.kind in FLOATS + PAIRS)
    targets = i.operands[0].parts if isinstance(i.operands[0], Vector) else (i.operands[0],)
    way = WAYS.get(i.mods[1])
    if (
        len(targets) != 1 + (i.kind in PAIRS)
        or (way and i.kind in PAIRS)
        or not all(isinstance(t, Reg) for t in targets)
    ):
        raise Unsupported(i.text)
    targets = [lanes.register(t) for t in targets]
    a, b = (_numbers(o, lanes, i.kind) for o in i.operands[1:3])
    other = lanes.view(i.operands[3], "pred") if way else None
    read = widen if i.kind.startswith("bf16") else lambda x: x

    def run(m):
        found = np.broadcast_to(compared(read(a), read(b)), len(targets) * lanes.count)
        for n, d in enumerate(targets):
            own = found[n :: len(targets)]
            np.copyto(d, way(own, other) if way else own, where=m)

    return run


def _select(i, lanes):
    d, a, b = (lanes.view(o, i.kind) for o in i.operands[:3])
    p = lanes.view(i.operands[3], "pred")
    return lambda m: np.copyto(d, np.where(p, a, b), where=m)


def _extract(i, lanes):
    """bfe with a constant place and length."""
    at, length = (int(lanes.view(o, "u32")) for o in i.operands[2:])
    if not 0 < length <= 32 - at:
        raise Unsupported(i.text)
    d, a = (lanes.view(o, i.kind) for o in i.operands[:2])
    left, right = d.dtype.type(32 - length - at), d.dtype.type(32 - length)
    return lambda m: np.copyto(d, (a << left) >> right, where=m)


def _insert(i, lanes):
    """bfi with a constant place and length: the lowest bits of a into b."""
    at, length = (int(lanes.view(o, "u32")) for o in i.operands[3:])
    d, a, b = (lanes.view(o, i.kind) for o in i.operands[:3])
    size = 8 * d.itemsize
    if not 0 < length <= size - at:
        raise Unsupported(i.text)
    mask = d.dtype.type((1 << length) - 1 << at)
    return lambda m: np.copyto(d, (a << d.dtype.type(at)) & mask | b & ~mask, where=m)


def _permute(i, lanes):
    """prmt, its default mode, with a constant selector that copies no signs."""
    d, a, b = (lanes.view(o, "b32") for o in i.operands[:3])
    choices = [int(lanes.view(i.operands[3], "u32")) >> 4 * n & 15 for n in range(4)]
    if len(i.mods) != 1 or any(choice & 8 for choice in choices):
        raise Unsupported(i.text)

    def run(m):
        chosen = ((a, b)[c >> 2] >> np.uint32(8 * (c & 3)) & np.uint32(255) for c in choices)
        np.copyto(d, sum(byte << np.uint32(8 * n) for n, byte in enumerate(chosen)), where=m)

    return run


def _move(i, lanes):
    """mov; of a vector: its parts packed or unpacked, the lowest first."""
    target, source = i.operands
    vector = next((o for o in i.operands if isinstance(o, Vector)), None)
    if vector is None:
        d, a = lanes.view(target, i.kind), lanes.view(source, i.kind)
        return lambda m: np.copyto(d, a, where=m)
    count = len(vector.parts)
    part = f"u{int(i.kind[1:]) // count}"
    pieces = lanes.view(source if vector is target else target, i.kind).view(TYPES[part])
    others = [None if o == SINK else lanes.view(o, part) for o in vector.parts]

    def run(m):
        for n, other in enumerate(others):
            if other is not None:
                to, value = (other, pieces[n::count]) if vector is target else (pieces[n::count], other)
                np.copyto(to, value, where=m)

    return run


def _to_integer(values, dtype):
    """Towards zero, held within the type; NaN is 0."""
    limits = np.iinfo(dtype)
    held = np.clip(np.trunc(values.astype(np.float64)), float(limits.min), float(limits.max))
    return np.where(np.isnan(values), 0, held).astype(dtype)


def _converted(to, kind, values, mods):
    """Values of `kind` as the bits or numbers of `to`."""
    values = widen(values) if kind == "bf16" else values
    if to == "tf32":  # to the nearest, ties away from zero or to even
        bits = values.view(np.uint32)
        half = np.uint32(0x1000) if "rna" in mods else np.uint32(0xFFF) + (bits >> np.uint32(13) & np.uint32(1))
        return np.where(np.isfinite(values), bits + half & np.uint32(0xFFFFE000), bits)
    if to in FLOATS:
        if {"rz", "rm", "rp"} & set(mods):
            raise Unsupported("cvt: " + ".".join(mods))
        return narrow(values.astype(np.float32)) if to == "bf16" else values.astype(TYPES[to])
    if kind in FLOATS:
        if "rzi" not in mods:
            raise Unsupported("cvt: " + ".".join(mods))
        return _to_integer(values, TYPES[to])
    return values.astype(TYPES[to])


def _convert(i, lanes):
    to, kind = i.mods[-2:]
    d, *sources = i.operands
    if "sat" in i.mods or to not in TYPES or kind not in TYPES or (to == "tf32" and not {"rn", "rna"} & set(i.mods)):
        raise Unsupported(i.text)
    sources = [np.asarray(lanes.view(o, kind)) for o in sources]
    if to in ("bf16x2", "f16x2"):  # the first source is the upper half
        to, d = to[:-2], lanes.view(d, "u32")
        halves = lambda: (_converted(to, kind, v, i.mods).view(np.uint16).astype(np.uint32) for v in sources)  # noqa: E731

        def packed(m):
            high, low = halves()
            np.copyto(d, high << np.uint32(16) | low, where=m)

        return packed
    d = lanes.target(d, to)
    return lambda m: np.copyto(d, _converted(to, kind, sources[0], i.mods), where=m, casting="unsafe")


BUILDERS = {
    "add": _elementwise(np.add),
    "sub": _elementwise(np.subtract),
    "mul": _multiply,
    "mad": _multiply,
    "fma": _multiply,
    "div": _divide,
    "rem": lambda i, lanes: _assigned(np.fmod, i, lanes),
    "min": _extreme(np.fmin, np.minimum),
    "max": _extreme(np.fmax, np.maximum),
    "neg": _sign(np.bitwise_xor, np.negative),
    "abs": _sign(lambda a, signs, **to: np.bitwise_and(a, ~signs, **to), np.abs),
    "sqrt": _elementwise(np.sqrt),
    "and": _logical(np.bitwise_and, np.logical_and),
    "or": _logical(np.bitwise_or, np.logical_or),
    "xor": _logical(np.bitwise_xor, np.logical_xor),
    "not": _logical(np.invert, np.logical_not),
    "shl": _shift(np.left_shift),
    "shr": _shift(np.right_shift),
    "setp": _compare,
    "selp": _select,
    "bfe": _extract,
    "bfi": _insert,
    "prmt": _permute,
    "rcp": _elementwise(np.reciprocal),
    "cvta": _move,  # addresses in shared memory are those within it
    "mov": _move,
    "cvt": _convert,
}
