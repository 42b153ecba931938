"""What the lanes of a warp do together: shuffles, reductions, votes, ldmatrix, and the matrix units' mma."""

import numpy as np

from .access import Shareds, parts_of
from .faults import Unsupported
from .lanes import WARP, widen


def together(machine, i, mask):
    """[warp] whether all lanes of each are here; warps of which only some are reported."""
    if mask is True:
        return True
    here = mask.reshape(-1, WARP)
    whole = here.all(1)
    torn = here.any(1) & ~whole
    if torn.any():
        lanes = np.flatnonzero(mask & np.repeat(torn, WARP))
        machine.report("divergent", i, lanes, "some lanes of a warp are not here")
    return mask


def _shuffle(i, machine):
    """shfl.sync: d|p, a, b, c, members; lanes beyond the segment keep their own."""
    way = i.mods[1]
    target = parts_of(i.operands[0])
    lanes = machine.lanes
    d = lanes.view(target[0], "u32")
    valid_to = lanes.register(target[1]) if len(target) > 1 else None
    a, b, c = (lanes.view(o, "u32") for o in i.operands[1:4])
    own = np.arange(lanes.count) % WARP
    start = np.arange(lanes.count) - own

    def run(m):
        mask = together(machine, i, m)
        by, clamp = np.asarray(b).astype(np.int64), np.asarray(c).astype(np.int64)
        segment, clamp = clamp >> 8 & 31, clamp & 31
        most = (own & segment) | (clamp & ~segment)
        least = own & segment
        by = by & 31
        if way == "bfly":
            source, valid = own ^ by, (own ^ by) <= most
        elif way == "idx":
            source = least | (by & ~segment)
            valid = source <= most
        elif way == "up":
            source, valid = own - by, (own - by) >= most
        else:
            source, valid = own + by, (own + by) <= most
        values = a[start + np.where(valid, source, own)] if np.ndim(a) else a
        np.copyto(d, values, where=mask)
        if valid_to is not None:
            np.copyto(valid_to, valid, where=mask)

    return run


REDUCTIONS = {"add": np.add, "min": np.minimum, "max": np.maximum}
EVERY_LANE = 0xFFFFFFFF


def _reduce(i, machine):
    """redux.sync of all lanes of a warp."""
    d, a = (machine.lanes.view(o, i.kind) for o in i.operands[:2])
    members, ufunc = machine.lanes.view(i.operands[2], "u32"), REDUCTIONS.get(i.mods[1])
    if ufunc is None:
        raise Unsupported(i.text)

    def run(m):
        mask = together(machine, i, m)
        if (np.asarray(members)[mask if np.ndim(members) else ...] != EVERY_LANE).any():
            raise Unsupported(f"{i.text}: of some lanes")
        np.copyto(d, np.repeat(ufunc.reduce(a.reshape(-1, WARP), 1), WARP), where=mask)

    return run


def _load_matrix(i, machine):
    """ldmatrix of 8 × 8 elements of 16 bits: lane 8 · n + row has the address of a row of matrix n."""
    if "m8n8" not in i.mods or "b16" not in i.mods:
        raise Unsupported(i.text)
    count, turned = int(next(m for m in i.mods if m[0] == "x")[1:]), "trans" in i.mods
    access = Shareds(i, machine, i.operands[1], 16)
    targets = [machine.lanes.view(part, "u32") for part in parts_of(i.operands[0])]
    gives = np.arange(machine.lanes.count) % WARP < 8 * count

    def run(m):
        mask = together(machine, i, m)
        p = np.flatnonzero(gives if mask is True else gives & mask)
        reached, slots = access.allowed(p)
        rows = np.full((machine.lanes.count // WARP * 8 * count, 8), 0xFFFF, np.uint16)
        place = reached // WARP * (8 * count) + reached % WARP
        rows[place] = access.read(reached, slots, 2)
        matrices = rows.reshape(-1, count, 8, 8)
        if turned:
            matrices = matrices.transpose(0, 1, 3, 2)
        for n, target in enumerate(targets):
            np.copyto(target, np.ascontiguousarray(matrices[:, n]).view(np.uint32).ravel(), where=mask)

    return run


def _store_matrix(i, machine):
    """stmatrix of 8 × 8 elements of 16 bits; the addresses as of ldmatrix."""
    if "m8n8" not in i.mods or "b16" not in i.mods:
        raise Unsupported(i.text)
    count, turned = int(next(m for m in i.mods if m[0] == "x")[1:]), "trans" in i.mods
    access = Shareds(i, machine, i.operands[0], 16)
    sources = [machine.lanes.view(part, "u32") for part in parts_of(i.operands[1])]
    gives = np.arange(machine.lanes.count) % WARP < 8 * count

    def run(m):
        mask = together(machine, i, m)
        p, slots = access.allowed(np.flatnonzero(gives if mask is True else gives & mask))
        matrices = np.stack([s.view(np.uint16).reshape(-1, 8, 8) for s in sources], 1)
        if turned:
            matrices = matrices.transpose(0, 1, 3, 2)
        rows = np.ascontiguousarray(matrices).reshape(-1, 8 * count, 8)
        access.write(p, slots, rows[p // WARP, p % WARP], 2)

    return run


HALVES = {"f16": lambda bits: bits.view(np.float16).astype(np.float32), "bf16": widen}


def fragments(registers, rows, columns, convert):
    """[warp, rows, columns] of a fragment: each register has an 8 × (8 or 4) corner; down first, then right."""
    corners = [convert(r) for r in registers]
    width = corners[0].size // (len(registers[0]) // WARP) // 8
    whole = np.empty((len(registers[0]) // WARP, rows, columns), np.float32)
    down = rows // 8
    for n, corner in enumerate(corners):
        y, x = n % down * 8, n // down * width
        whole[:, y : y + 8, x : x + width] = corner.reshape(-1, 8, width)
    return whole


def operand_of(kind):
    """Bits of a register -> its elements as float32: two halves, or one TF32 (whose low bits are not looked at)."""
    if kind == "tf32":
        return lambda r: (r & np.uint32(0xFFFFE000)).view(np.float32)
    return lambda r: HALVES[kind](r.view(np.uint16))


SHAPES = {"m16n8k16": 16, "m16n8k8": 8, "m16n8k4": 4}


def _multiply(i, machine):
    """mma.sync: d = a b + c. Products are exact, sums float32."""
    shape = next((m for m in i.mods if m in SHAPES), None)
    kinds = [m for m in i.mods if m in ("f16", "bf16", "tf32", "f32")]
    known = shape and i.mods[3:5] == ("row", "col") and kinds[0] == kinds[3] == "f32" and kinds[1] == kinds[2]
    if not known or kinds[1] == "f32" or i.guard:
        raise Unsupported(i.text)
    lanes, depth, convert = machine.lanes, SHAPES[shape], operand_of(kinds[1])
    d, a, b, c = ([lanes.view(o, "u32") for o in parts_of(operand)] for operand in i.operands)

    def run(m):
        mask = together(machine, i, m)
        left, right = fragments(a, 16, depth, convert), fragments(b, 8, depth, convert)  # the right one turned
        product = left @ right.transpose(0, 2, 1)
        for n, (to, source) in enumerate(zip(d, c)):
            part = product[:, n // 2 * 8 : n // 2 * 8 + 8, n % 2 :: 2].reshape(-1)
            np.add(part, source.view(np.float32), out=to.view(np.float32), where=mask)

    return run


BUILDERS = {
    "shfl": _shuffle,
    "redux": _reduce,
    "ldmatrix": _load_matrix,
    "stmatrix": _store_matrix,
    "mma": _multiply,
}
