"""What launches do, counted: instructions by class, sectors of global memory, phases of shared memory."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

CLASSES = {"ld": "load", "st": "store", "atom": "atomic", "cp": "copy", "ldmatrix": "ldmatrix", "mma": "mma"}
CLASSES |= {"fence": "fence", "bar": "barrier", "bra": "branch", "brx": "branch", "ret": "branch", "shfl": "shuffle"}
SECTOR, BANKS, PHASE = 32, 32, 128  # bytes, words, bytes of shared memory at a time


def class_of(i):
    """An instruction's; what is no memory access, product or branch is "float" or "integer"."""
    if i.name in ("ld", "st"):
        space = next((m for m in i.mods if m in ("shared", "global")), "param")
        return f"{CLASSES[i.name]} {space}"
    if i.name == "wgmma":
        return "mma" if i.mods[0] == "mma_async" else "fence"  # groups and waits too
    if i.name in CLASSES:
        return CLASSES[i.name]
    return "float" if any(m in ("f16", "f32", "bf16", "tf32", "f16x2", "bf16x2") for m in i.mods) else "integer"


@dataclass
class Requests:
    """Of warps to a memory: how many, how many sectors or phases they took, and the fewest that would do."""

    requests: int = 0
    taken: int = 0
    least: int = 0
    bytes: int = 0

    def add(self, *numbers):
        self.requests, self.taken, self.least, self.bytes = (
            own + more for own, more in zip((self.requests, self.taken, self.least, self.bytes), numbers)
        )


@dataclass
class Counters:
    """Of launches.

    Attributes:
        blocks: {(first instruction, end): how many warps ran them}, of the kernel that ran last.
        global_, shared: {(source line, instruction): `Requests`}.
    """

    blocks: Counter = field(default_factory=Counter)
    global_: dict = field(default_factory=dict)
    shared: dict = field(default_factory=dict)

    def ran(self, block, warps):
        self.blocks[block.begin, block.end] += warps

    def instructions(self, kernel):
        """{class: how many warps issued one}"""
        total = Counter()
        for (begin, end), warps in self.blocks.items():
            for i in kernel.instructions[begin:end]:
                total[class_of(i)] += warps
        return total

    def loop(self, kernel, name):
        """{class: instructions} of the block that has issued the most of this name."""

        def issued(place):
            return self.blocks[place] * sum(i.name == name for i in kernel.instructions[slice(*place)])

        return Counter(map(class_of, kernel.instructions[slice(*max(self.blocks, key=issued))]))

    def reached_global(self, i, warps, address, width):
        """Each warp's request takes the sectors in which its lanes' bytes lie."""
        sectors = (address // np.uint64(SECTOR)).astype(np.int64)
        taken = len(np.unique(warps << 48 | sectors & ((1 << 48) - 1)))
        distinct = np.unique(np.stack([warps, address.astype(np.int64)]), axis=1)[0]  # the same bytes are read once
        least = int(np.ceil(np.bincount(distinct) * width / SECTOR).sum())
        self._of(self.global_, i).add(len(np.unique(warps)), taken, least, len(address) * width)

    def reached_shared(self, i, warps, threads, address, width):
        """128 bytes of lanes at a time, each bank one word of them; of one word that several lanes read, once."""
        phases = warps * 8 + threads % 32 * width // PHASE
        words = address[:, None] // 4 + np.arange(max(1, width // 4))
        distinct = np.unique(phases[:, None] << 32 | words)
        banks, counts = np.unique(distinct >> 32 << 8 | (distinct & 0xFFFFFFFF) % BANKS, return_counts=True)
        least, starts = np.unique(banks >> 8, return_index=True)
        taken = int(np.maximum.reduceat(counts, starts).sum())
        self._of(self.shared, i).add(len(np.unique(warps)), taken, len(least), len(address) * width)

    @staticmethod
    def _of(found, i):
        return found.setdefault((i.source, i.text.partition(" ")[0]), Requests())

    def total(self, requests, *names):
        """The `Requests` of a memory by instructions of these names ("st"), all without one."""
        total = Requests()
        for (_, text), own in requests.items():
            if not names or text.split(".")[0] in names:
                total.add(own.requests, own.taken, own.least, own.bytes)
        return total
