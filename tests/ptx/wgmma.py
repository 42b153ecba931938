"""wgmma: products of a warpgroup by operands that lie in shared memory, as their descriptors say. (PTX ISA, 9.7.15)

They are done when they are waited for, the last moment at which the hardware may read: an operand that is overwritten
too early, in shared memory or in registers, or a result that is read too early, shows. So does what they cannot see,
since no fence stands behind it: registers since the last wgmma.fence, shared memory since fence.proxy.async.
"""

import numpy as np

from .faults import Unsupported
from .lanes import WARP
from .parse import Vector
from .warp import HALVES, fragments, operand_of, together

GROUP = 4 * WARP
ROW = 16  # bytes that swizzling keeps together
SPANS = {1: 128, 2: 64, 3: 32}  # bytes of a swizzled row, by the descriptor's mode


class Products:
    """Products in flight: (instruction, mask, operands, group of each lane), in their order."""

    def __init__(self, machine):
        self.machine, self.committed, self.pending = machine, np.zeros(machine.lanes.count, np.int64), []
        self.of_registers = []  # products whose left operand is in registers

    def clear(self):
        self.committed[:] = 0
        self.pending = []
        for product in self.of_registers:
            product.shown = [~register for register in product.a]

    def show(self, mask):
        """wgmma.fence: products see what registers hold now."""
        for product in self.of_registers:
            product.show(mask)

    def commit(self, mask):
        np.add(self.committed, 1, out=self.committed, where=mask)

    def issue(self, product, mask, operands):
        here = np.ones(len(self.committed), bool) if mask is True else mask.copy()
        self.pending.append([product, here, operands, self.committed.copy()])

    def wait(self, mask, left):
        kept = []
        for entry in self.pending:
            product, here, operands, group = entry
            done = here & (group < self.committed - left) & mask
            if done.any():
                product.finish(done, *operands)
                entry[1] = here & ~done
            if entry[1].any():
                kept.append(entry)
        self.pending = kept


def _swizzled(address, span):
    """16-byte pieces of rows change places by the row they are in."""
    return address ^ ((address >> 7 & (span // ROW - 1)) << 4)


def _field(descriptor, first, bits):
    return (descriptor >> np.uint64(first) & np.uint64((1 << bits) - 1)).astype(np.int64)


class _Matrix:
    """An operand in shared memory: [rows, depth] elements of `size` bytes, depth or (`turned`) rows contiguous."""

    def __init__(self, rows, depth, size, turned, convert):
        self.rows, self.depth, self.size, self.turned, self.convert = rows, depth, size, turned, convert

    def addresses(self, descriptor):
        """[warpgroup, line, piece] of 16-byte pieces."""
        start, leading, stride = (_field(descriptor, first, 14) * ROW for first in (0, 16, 32))
        mode = _field(descriptor, 62, 2)
        if (mode != mode[0]).any() or mode[0] not in SPANS or _field(descriptor, 49, 3).any():
            raise Unsupported(f"wgmma: a descriptor of mode {mode[0]}")
        span, per = SPANS[int(mode[0])], ROW // self.size
        if self.turned:  # lines are of the depth, pieces of the rows
            line, piece = np.arange(self.depth)[:, None], np.arange(self.rows // per)[None, :]
            atom, within = piece * ROW // span, piece * ROW % span
            steps = within + line % 8 * span
            near, far = atom, line // 8
        else:
            line, piece = np.arange(self.rows)[:, None], np.arange(self.depth // per)[None, :]
            steps, near, far = piece * ROW + line % 8 * span, 0 * line, line // 8
        at = start[:, None, None] + steps + near * leading[:, None, None] + far * stride[:, None, None]
        return _swizzled(at, span)

    def read(self, product, lanes, descriptor):
        """[warpgroup, rows, depth] float32; `lanes`: the first one of each warpgroup."""
        machine, shared = product.machine, product.machine.shared
        at = self.addresses(descriptor)
        picked, flat = np.repeat(lanes, at[0].size), at.reshape(-1)
        inside, _ = shared.within(flat, ROW)
        if not inside.all():
            machine.report("out of bounds", product.i, picked[~inside], f"shared address {int(flat[~inside][0])}")
            picked, flat = picked[inside], flat[inside]
        slots = shared.slots(picked, flat, ROW)
        if (hidden := shared.unshown[slots] != 0).any():
            machine.report(
                "unfenced", product.i, picked[hidden], "an operand in shared memory, written by the other way"
            )
        if shared.note_read(picked, slots, ROW).any():
            machine.report("race", product.i, picked, "reads what another warp wrote since the last barrier")
        states = shared.states(slots, ROW)
        if states is not None:
            for kind, state in (("uninitialised", 0), ("in flight", 2)):
                wrong = (states == state).any(1)
                if wrong.any():
                    machine.report(kind, product.i, picked[wrong], "an operand in shared memory")
        pieces = np.full((at.size, ROW // self.size), (1 << 8 * self.size) - 1, f"u{self.size}")
        pieces[inside] = shared.load(slots, ROW, self.size)
        whole = self.convert(pieces).reshape(len(lanes), at.shape[1], -1)
        return whole.transpose(0, 2, 1) if self.turned else whole


class Product:
    """One wgmma.mma_async, bound to its registers."""

    def __init__(self, i, machine):
        self.i, self.machine, lanes = i, machine, machine.lanes
        shape, to, kind, other = i.mods[3:7]
        flags = [o.bits for o in i.operands[4:]]
        if to != "f32" or kind != other or kind not in ("f16", "bf16", "tf32") or flags[:2] != [1, 1] or i.guard:
            raise Unsupported(i.text)
        self.columns, self.depth = (int(n) for n in shape[len("m64n") :].split("k"))
        size, convert = (4, operand_of("tf32")) if kind == "tf32" else (2, _halves(kind))
        d, a, b, keeps = i.operands[:4]
        self.results = [lanes.view(o, "f32") for o in d.parts]
        self.keeps, self.b = lanes.view(keeps, "pred"), lanes.view(b, "u64")
        turned = [*([0] * (2 - len(flags[2:]))), *flags[2:]] if isinstance(a, Vector) else (flags[2:] or [0, 0])
        self.left = None if isinstance(a, Vector) else _Matrix(64, self.depth, size, turned[0], convert)
        self.a = [lanes.view(o, "u32") for o in a.parts] if isinstance(a, Vector) else lanes.view(a, "u64")
        self.fragment = operand_of(kind)
        self.right = _Matrix(self.columns, self.depth, size, turned[1], convert)
        if self.left is None:
            machine.products.of_registers.append(self)

    def show(self, mask):
        for kept, now in zip(self.shown, self.a):
            np.copyto(kept, now, where=mask)

    def _changed(self, kind, since, mask, words):
        """Report lanes whose left operand is not what it was."""
        changed = np.any([was != now for was, now in zip(since, self.a)], 0) & mask
        if changed.any():
            self.machine.report(kind, self.i, np.flatnonzero(changed), words)

    def __call__(self, mask):
        together(self.machine, self.i, mask)
        a = [r.copy() for r in self.a] if self.left is None else self.a.copy()
        if self.left is None:
            self._changed("unfenced", self.shown, mask, "registers written since the last fence")
        keeps = np.broadcast_to(self.keeps, self.b.shape).copy()
        self.machine.products.issue(self, mask, (a, self.b.copy(), keeps))

    def finish(self, done, a, b, keeps):
        groups = np.flatnonzero(done.reshape(-1, GROUP).any(1))
        lanes = groups * GROUP
        if not done.reshape(-1, GROUP)[groups].all():
            self.machine.report("divergent", self.i, lanes, "some lanes of a warpgroup are not here")
        members = (lanes[:, None] + np.arange(GROUP)).ravel()
        if self.left is None:
            self._changed("in flight", a, done, "registers overwritten before the product was waited for")
            left = fragments([r[members] for r in a], 16, self.depth, self.fragment).reshape(-1, 64, self.depth)
        else:
            left = self.left.read(self, lanes, a[lanes])
        right = self.right.read(self, lanes, b[lanes])
        product = (left @ right.transpose(0, 2, 1)).reshape(-1, 4, 2, 8, self.columns // 8, 4, 2)
        for n, to in enumerate(self.results):  # [group, warp, half of its rows, row, eight columns, pair, column]
            part = product[:, :, n // 2 % 2, :, n // 4, :, n % 2].reshape(-1)
            to[members] = np.where(keeps[members], to[members], np.float32(0)) + part


def _halves(kind):

    return lambda pieces: HALVES[kind](np.ascontiguousarray(pieces))


def build(i, machine):
    if i.mods[0] == "mma_async":
        return Product(i, machine)
    if i.mods[0] == "commit_group":
        return machine.products.commit
    if i.mods[0] == "wait_group":
        left = i.operands[0].bits
        return lambda m: machine.products.wait(m, left)
    if i.mods[0] == "fence":
        return lambda m: machine.products.show(together(machine, i, m))
    raise Unsupported(i.text)
