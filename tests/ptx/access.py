"""Loads, stores, atomics and copies: of an instruction and the machine, a function of the mask of active lanes."""

import numpy as np

from .faults import Unsupported
from .lanes import TYPES, bytes_of
from .parse import Imm, Symbol, Vector
from .shared_memory import IN_FLIGHT, POISON, WRITTEN


def _space(i):
    for m in i.mods:
        if m.split("__")[0] in ("global", "shared", "param", "local", "const"):
            return m.split("__")[0]
    raise Unsupported(i.text)


def parts_of(operand):
    return operand.parts if isinstance(operand, Vector) else (operand,)


def picked(machine, mask):
    return machine.everyone if mask is True else np.flatnonzero(mask)


def _addresses(machine, operand, kind):
    """A function of the picked lanes: their addresses."""
    base, offset = machine.lanes.view(operand.base, kind), operand.offset
    if kind == "u64":
        offset = np.uint64(offset & 0xFFFFFFFFFFFFFFFF)
        return lambda p: base[p] + offset
    if isinstance(operand.base, (Symbol, Imm)):
        return lambda p: np.full(len(p), int(base) + offset, np.int64)
    return lambda p: base[p].astype(np.int64) + offset & 0xFFFFFFFF  # 32 bits: compilers let sums wrap around


def shared_width(i):
    """Bytes of an instruction's access to shared memory; None if it has none."""
    if i.name in ("ldmatrix", "stmatrix"):
        return 16
    if i.name == "cp" and len(i.operands) > 2:
        return i.operands[2].bits
    if i.name in ("ld", "st") and _space(i) == "shared":
        return bytes_of(i.kind) * len(parts_of(i.operands[1 if i.name == "st" else 0]))
    return None


def global_width(i):
    """Bytes of a load's or a store's access to global memory; None if it has none."""
    if _space(i) != "global":
        return None
    return bytes_of(i.kind) * len(parts_of(i.operands[1 if i.name == "st" else 0]))


class _Globals:
    """Checked accesses of one instruction to global memory."""

    def __init__(self, i, machine, operand, width):
        self.i, self.machine, self.width = i, machine, width
        self.address = _addresses(machine, operand, "u64")

    def allowed(self, p):
        """(lanes whose access can be done, their addresses); the others are reported."""
        machine, address = self.machine, self.address(p)
        crooked = address % np.uint64(self.width) != 0
        if crooked.any():
            machine.report("misaligned", self.i, p[crooked], f"address {int(address[crooked][0]):#x} by {self.width}")
            p, address = p[~crooked], address[~crooked]
        inside = machine.memory.inside(address, self.width)
        if not inside.all():
            machine.report("out of bounds", self.i, p[~inside], machine.memory.nearest(address[~inside][0]))
        return p[inside], address[inside]

    def _count(self, p, address):
        if self.machine.counters:
            self.machine.counters.reached_global(self.i, self.machine.lanes.warp[p], address, self.width)

    def read(self, p, address, size):
        self._count(p, address)
        self.machine.order.note_read(self.i, p, address, self.width)
        return self.machine.memory.load(address, size, self.width // size)

    def write(self, p, address, rows, size):
        self._count(p, address)
        self.machine.order.note_write(self.i, p, address, self.width)
        self.machine.memory.store(address, size, self.width // size, rows)


class Shareds:
    """Checked accesses of one instruction to shared memory."""

    def __init__(self, i, machine, operand, width):
        self.i, self.machine, self.width = i, machine, width
        self.address = _addresses(machine, operand, "u32")

    def allowed(self, p):
        """(lanes whose access can be done, the slots); the others are reported."""
        machine, address = self.machine, self.address(p)
        inside, straight = machine.shared.within(address, self.width)
        if not (inside & straight).all():
            for kind, wrong in (("out of bounds", ~inside), ("misaligned", inside & ~straight)):
                if wrong.any():
                    machine.report(kind, self.i, p[wrong], f"shared address {int(address[wrong][0])} by {self.width}")
            fine = inside & straight
            p, address = p[fine], address[fine]
        if machine.counters and len(p):
            machine.counters.reached_shared(self.i, machine.lanes.warp[p], machine.lanes.thread[p], address, self.width)
        return p, machine.shared.slots(p, address, self.width)

    def read(self, p, slots, size):
        machine, shared = self.machine, self.machine.shared
        states = shared.states(slots, self.width)
        if states is not None:
            for kind, state in (("uninitialised", 0), ("in flight", IN_FLIGHT)):
                wrong = (states == state).any(1)
                if wrong.any():
                    machine.report(kind, self.i, p[wrong], "shared memory")
        self._raced(p, shared.note_read(p, slots, self.width), "reads what another warp wrote")
        return shared.load(slots, self.width, size)

    def write(self, p, slots, rows, size, state=WRITTEN):
        shared = self.machine.shared
        known = rows if state == WRITTEN else None
        self._raced(p, shared.note_write(p, slots, self.width, known, size), "writes what another warp touched")
        self._raced(p, shared.store(slots, self.width, rows, size, state), "lanes write one place, of other values")

    def _raced(self, p, racing, words):
        if racing.any():
            self.machine.report("race", self.i, p[racing], words + " since the last barrier")


def _load(i, machine):
    space = _space(i)
    if space == "param":
        return _load_param(i, machine)
    kind, parts = i.kind, parts_of(i.operands[0])
    size = bytes_of(kind)
    width = size * len(parts)
    targets = [machine.lanes.target(part, kind) for part in parts]
    dtype = TYPES[kind]
    access = {"global": _Globals, "shared": Shareds}[space](i, machine, i.operands[1], width)

    def run(m):
        p, where = access.allowed(picked(machine, m))
        if not len(p):
            return
        if "acquire" in i.mods:
            machine.order.note_atomic(i, p)
        rows = access.read(p, where, size)
        for column, target in enumerate(targets):
            target[p] = np.ascontiguousarray(rows[:, column]).view(dtype)

    return run


def _load_param(i, machine):
    target, operand = machine.lanes.target(i.operands[0], i.kind), i.operands[1]
    address, size = _addresses(machine, operand, "u32"), bytes_of(i.kind)
    places = np.lib.stride_tricks.sliding_window_view(machine.params, size)

    def run(m):
        p = picked(machine, m)
        at = address(p)
        inside = (at >= 0) & (at < len(places))
        if not inside.all():
            machine.report("out of bounds", i, p[~inside], "parameters")
        target[p[inside]] = np.ascontiguousarray(places[at[inside]]).view(TYPES[i.kind])[:, 0]

    return run


def _store(i, machine):
    space, kind, parts = _space(i), i.kind, parts_of(i.operands[1])
    size = bytes_of(kind)
    access = {"global": _Globals, "shared": Shareds}[space](i, machine, i.operands[0], size * len(parts))
    sources = [machine.lanes.view(part, f"u{8 * size}") for part in parts]

    def run(m):
        p = picked(machine, m)
        p, where = access.allowed(p)
        if not len(p):
            return
        rows = np.empty((len(p), len(parts)), f"u{size}")
        for column, source in enumerate(sources):
            rows[:, column] = source[p] if np.ndim(source) else source
        access.write(p, where, rows, size)

    return run


def _atomic(i, machine):
    """atom.add to global memory: one lane after another."""
    if _space(i) != "global" or i.mods[-2] != "add" or i.kind not in ("u32", "s32"):
        raise Unsupported(i.text)
    target, access = machine.lanes.target(i.operands[0], i.kind), _Globals(i, machine, i.operands[1], 4)
    added = machine.lanes.view(i.operands[2], "u32")

    def run(m):
        p, address = access.allowed(picked(machine, m))
        machine.order.note_atomic(i, p)
        for lane in range(len(p)):
            old = machine.memory.load(address[lane : lane + 1], 4, 1)
            target[p[lane]] = old[0, 0]
            machine.memory.store(address[lane : lane + 1], 4, 1, old + (added[p[lane]] if np.ndim(added) else added))

    return run


def _copy(i, machine):
    """cp.async and its groups."""
    if "commit_group" in i.mods:
        return machine.copies.commit
    if "wait_group" in i.mods or "wait_all" in i.mods:
        return _wait(i, machine)
    if i.mods[0] != "async" or "global" not in i.mods:
        raise Unsupported(i.text)
    width = i.operands[2].bits
    to = Shareds(i, machine, i.operands[0], width)
    source = _Globals(i, machine, i.operands[1], width)
    filled = machine.lanes.view(i.operands[3], "u32") if len(i.operands) > 3 else None
    size = min(width, 8)
    poison = np.full(size, POISON, np.uint8).view(f"u{size}")[0]

    def run(m):
        p, slots = to.allowed(picked(machine, m))
        rows = np.zeros((len(p), width // size), f"u{size}")
        sizes = np.full(len(p), width) if filled is None else filled[p] if np.ndim(filled) else np.full(len(p), filled)
        if ((sizes != 0) & (sizes != width)).any():
            raise Unsupported(f"{i.text}: a part of the bytes")
        asked = p[sizes != 0]
        reached, address = source.allowed(asked)
        if len(reached):
            place = slice(None) if len(reached) == len(p) else np.searchsorted(p, reached)
            rows[place] = source.read(reached, address, size)
        to.write(p, slots, np.full_like(rows, poison), size, IN_FLIGHT)
        machine.copies.issue(p, slots, width, rows)

    return run


def _wait(i, machine):
    left = 0 if "wait_all" in i.mods else i.operands[0].bits

    def run(m):
        if "wait_all" in i.mods:
            machine.copies.commit(m)
        for p, slots, width, rows in machine.copies.completed(m, left):
            machine.shared.note_write(p, slots, width, None, width)
            machine.shared.store(slots, width, rows, rows.itemsize)

    return run


BUILDERS = {"ld": _load, "st": _store, "atom": _atomic, "cp": _copy}
