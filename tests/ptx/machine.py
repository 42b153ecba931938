"""The machine: runs one launch of a parsed kernel, all lanes of a chunk of CTAs at once, the lowest block first."""

import re

import numpy as np

from . import access, alu, warp, wgmma
from .faults import Stuck, Unsupported
from .lanes import TYPES, Lanes
from .order import Order
from .shared_memory import Copies, Shared

LANES_AT_ONCE = 8192
# Modifiers that instructions take notice of, or that change nothing here; of matrix products `warp` and `wgmma` know.
MODIFIER = re.compile(
    "rn|rna|rzi|nc|full|lo|hi|wide|to|sync|aligned|uni|warp|idx|bfly|up|down|num|nan|NaN|async|proxy|[vx][124]|m8n8|trans|"
    "global|L2|shared|shared__cta|param|gpu|acquire|release|acq_rel|relaxed|ca|cg|commit_group|wait_group|wait_all|"
    + "|".join([*TYPES, *alu.WAYS, *(f"{name}u?" for name in alu.COMPARISONS), *warp.REDUCTIONS])
)
# A lane's next block when it has ended, and when it waits at a barrier; added to it while it asks for an atomic again.
GONE, ASKING, WAITING = 1 << 30, 1 << 29, 1 << 28
PATIENCE = 1000  # how often all lanes that are left may ask in vain


class Machine:
    """One launch.

    Args:
        kernel: of `parse`.
        grid: (x, y, z) CTAs.
        params: bytes of the parameter space, as `pack_params` makes them.
        memory: `Global` memory: the tensors that the launch may reach.
        threads, shared_bytes: of a CTA.
        faults: where they are added.
        counters: `Counters` of this launch, if they are wanted.
        programs: numbers of the only CTAs that are run, one after another.
    """

    def __init__(self, kernel, grid, params, memory, threads, shared_bytes, faults, counters=None, programs=None):
        self.kernel, self.grid = kernel, tuple(grid) + (1,) * (3 - len(grid))
        self.total, self.memory, self.faults, self.counters = int(np.prod(grid)), memory, faults, counters
        self.params = np.frombuffer(bytes(params) + bytes(16), np.uint8)
        at_once = 1 if programs else min(self.total, max(1, LANES_AT_ONCE // threads))
        self.lanes = Lanes(kernel, at_once, threads, self.grid, self._symbols())
        self.chunks = programs or range(0, self.total, at_once)
        self.everyone = np.arange(self.lanes.count)
        grain = min((w for i in kernel.instructions if (w := access.shared_width(i))), default=16)
        self.shared = Shared(self.lanes, max(shared_bytes, self._static_shared()), grain)
        self.copies = Copies(self.lanes)
        self.products = wgmma.Products(self)
        self.order = Order(self)
        with np.errstate(all="ignore"):
            self.bodies = [self._bind(i) for i in kernel.instructions]

    def _symbols(self):
        offsets, at = {}, 0
        for name, size, alignment in self.kernel.params:
            at = -(-at // alignment) * alignment
            offsets[name], at = at, at + size
        return offsets | {name: address for name, (address, _) in self.kernel.symbols.items()}

    def _static_shared(self):
        return max((address + size for address, size in self.kernel.symbols.values()), default=0)

    def report(self, kind, i, lanes, detail):
        first = lanes[0]
        cta = self.lanes.first_cta + self.lanes.cta[first]
        self.faults.report(kind, self.kernel.name, i, cta, self.lanes.thread[first], detail, len(lanes))

    def _bind(self, i):
        if i.name not in ("mma", "wgmma") and not all(map(MODIFIER.fullmatch, i.mods)):
            raise Unsupported(f"line {i.line}: {i.text}")
        if i.name in ("bra", "brx", "ret", "exit"):
            return None
        if i.name == "bar":
            return self._bind_barrier(i)
        if i.name in alu.BUILDERS:
            body = alu.BUILDERS[i.name](i, self.lanes)
        elif i.name in access.BUILDERS:
            body = access.BUILDERS[i.name](i, self)
        elif i.name in warp.BUILDERS:
            body = warp.BUILDERS[i.name](i, self)
        elif i.name == "wgmma":
            body = wgmma.build(i, self)
        elif i.name == "fence" and i.mods[:2] == ("proxy", "async"):
            body = self.shared.show
        elif i.name in ("fence", "prefetch"):  # the order of lanes is that of the program; no memory is far
            body = lambda m: None  # noqa: E731
        else:
            raise Unsupported(f"line {i.line}: {i.text}")
        return self._guarded(i, body)

    def _guarded(self, i, body):
        if i.guard is None:
            return body
        predicate, negated = self.lanes.register(i.guard[0]), i.guard[1]

        def run(m):
            mask = ~predicate if negated else predicate
            if m is not True:
                mask = mask & m
            if mask.all():
                body(True)
            elif mask.any():
                body(mask.copy() if mask is predicate else mask)

        return run

    def _bind_barrier(self, i):
        if i.mods[0] == "warp":
            return lambda m: warp.together(self, i, m)
        if len(i.operands) > 1 or i.guard or i.operands[0].bits != 0 or i.mods[0] != "sync":
            raise Unsupported(f"line {i.line}: {i.text}")
        return None

    def run(self):
        """Run the CTAs; what they did wrong is in `faults`."""
        with np.errstate(all="ignore"):
            for first in self.chunks:
                self._run_chunk(first)

    def _run_chunk(self, first):
        lanes = self.lanes
        lanes.place(first)
        for part in (self.shared, self.copies, self.products):
            part.clear()
        self.next = np.zeros(lanes.count, np.int64)
        self.next[(first + lanes.cta) >= self.total] = GONE
        self.resume, self.asked = np.zeros(lanes.count, np.int64), 0
        while (lowest := self.next.min()) != GONE:
            if lowest >= WAITING:
                self._release()
                continue
            mask = self.next == lowest
            self._run_block(int(lowest), True if mask.all() else mask)

    def _run_block(self, number, mask):
        block = self.kernel.blocks[number]
        if self.counters:
            self.counters.ran(block, self.lanes.warps_of(mask))
        for k in range(block.begin, block.end - 1):
            self.bodies[k](mask)
        last = self.kernel.instructions[block.end - 1]
        if self.bodies[block.end - 1] is not None:
            self.bodies[block.end - 1](mask)
        if last.name == "bar" and last.mods[0] == "sync":
            np.copyto(self.resume, number + 1, where=mask)
            np.copyto(self.next, WAITING, where=mask)
        elif last.name in ("bra", "brx", "ret", "exit"):
            self._branch(last, number, mask)
        else:
            np.copyto(self.next, number + 1, where=mask)

    def _branch(self, i, number, mask):
        if i.name == "brx":
            targets = np.array([self._block_of(label) for label in self.kernel.tables[i.operands[1].name]])
            to = targets[np.minimum(self.lanes.view(i.operands[0], "u32"), len(targets) - 1)]
        else:
            to = GONE if i.name in ("ret", "exit") else self._block_of(i.operands[0].name)
        if i.guard is not None:
            to = np.where(self.lanes.register(i.guard[0]) != i.guard[1], to, number + 1)
        block = self.kernel.blocks[number]
        if any(own.name == "atom" for own in self.kernel.instructions[block.begin : block.end]):
            to = np.where(to <= number, to + ASKING, to)  # others first: it may be for them that it waits
        np.copyto(self.next, to, where=mask)

    def _block_of(self, label):
        return self.kernel.block_at[self.kernel.labels[label]]

    def _release(self):
        """Let the CTAs go on of which every lane waits, or has ended; where there is none, lanes that ask again."""
        waiting, asking = self.next == WAITING, (self.next >= ASKING) & (self.next < GONE)
        whole = (waiting | (self.next == GONE)).reshape(self.lanes.ctas, -1).all(1)
        ready = waiting & whole[self.lanes.cta]
        self.asked = 0 if ready.any() else self.asked + 1
        if not ready.any():
            if not asking.any() or self.asked > PATIENCE:
                raise Stuck(f"{self.kernel.name}: lanes wait for others that do not come")
            self.next[asking] -= ASKING
            return
        np.copyto(self.next, self.resume, where=ready)
        self.shared.barrier(ready)


def pack_params(kernel, values):
    """Bytes of the parameter space: integers and floats, each by its size, and tuples of addresses."""
    data = bytearray()
    for (_, size, alignment), value in zip(kernel.params, values, strict=True):
        data += bytes(-len(data) % alignment)
        if isinstance(value, tuple):
            data += np.array(value, np.uint64).tobytes()
        elif isinstance(value, float):
            data += np.float32(value).tobytes()
        else:
            data += (int(value) % (1 << 8 * size)).to_bytes(size, "little")
    return bytes(data)
