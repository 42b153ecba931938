"""Programs of one launch at one place of global memory: what no atomics stand between is not ordered."""

import numpy as np

from .access import global_width


class Order:
    """Of each place that a launch wrote, the program that did and after how many barriers; of programs, their atomics.

    A program sees another's write if that one releases after a barrier behind the write, and it acquires later, with a
    barrier before what it does. At which place the two atomics are is not asked.
    """

    def __init__(self, machine):
        self.machine, self.clock = machine, 0
        widths = [w for i in machine.kernel.instructions if i.name == "st" and (w := global_width(i))]
        self.grain = min(widths, default=4)
        self.writes = {}  # {region: [place] of (program + 1, barriers)}
        self.releases, self.acquires = {}, {}  # {program: [(clock, barriers)]}

    def _places(self, p, address, width):
        """Of each region: its number, the lanes that access it, [lane, place in it]."""
        regions = self.machine.memory.region(address)
        for region in np.unique(regions).tolist():
            own = regions == region
            first = int(self.machine.memory.regions[region, 0]) // self.grain
            places = (address[own] // np.uint64(self.grain)).astype(np.int64) - first
            yield region, p[own], places[:, None] + np.arange(max(1, width // self.grain))

    def _program(self, p):
        return self.machine.lanes.first_cta + self.machine.lanes.cta[p]

    def note_write(self, i, p, address, width):
        for region, lanes, places in self._places(p, address, width):
            if region not in self.writes:
                start, end = self.machine.memory.regions[region].tolist()
                self.writes[region] = np.zeros((end // self.grain - start // self.grain + 1, 2), np.int32)
            writes, wrong = self.writes[region], self._unordered(region, lanes, places)
            program = self._program(lanes)[:, None] + 1
            writes[places, 0], writes[places, 1] = program, self.machine.shared.epoch[lanes][:, None]
            wrong |= (writes[places, 0] != program).any(1)  # at once
            if wrong.any():
                self.machine.report("two programs write", i, lanes[wrong], "global memory, no atomics between")

    def note_read(self, i, p, address, width):
        if not self.writes:
            return
        for region, lanes, places in self._places(p, address, width):
            if region in self.writes and (wrong := self._unordered(region, lanes, places)).any():
                self.machine.report(
                    "unordered", i, lanes[wrong], "reads what another program wrote, no atomics between"
                )

    def note_atomic(self, i, p):
        self.clock += 1
        events = [self.releases] * ("release" in i.mods) + [self.acquires] * ("acquire" in i.mods)
        events += [self.releases, self.acquires] * ("acq_rel" in i.mods)
        for program, epoch in zip(self._program(p).tolist(), self.machine.shared.epoch[p].tolist()):
            self.clock += 1
            for own in events:
                own.setdefault(program, []).append((self.clock, epoch))

    def _unordered(self, region, lanes, places):
        """Of each lane, whether another program wrote one of its places, and nothing orders the two."""
        writers, epochs = np.moveaxis(self.writes[region][places], -1, 0)
        programs = self._program(lanes)
        other = (writers > 0) & (writers != programs[:, None] + 1)
        wrong = other.any(1)
        if wrong.any() and self.releases and self.acquires:
            at, _ = np.nonzero(other)
            keys = np.stack([writers[other] - 1, epochs[other], programs[at], self.machine.shared.epoch[lanes][at]], 1)
            unique, back = np.unique(keys, axis=0, return_inverse=True)
            loose = np.array([not self._ordered(*row) for row in unique.tolist()])[back.reshape(-1)]
            wrong[:] = False
            wrong[at[loose]] = True
        return wrong

    def _ordered(self, writer, written, program, now):
        released = [t for t, barriers in self.releases.get(writer, ()) if barriers > written]
        return bool(released) and any(t > released[0] and b < now for t, b in self.acquires.get(program, ()))
