"""Shared memory of a chunk of CTAs, and its shadow: what was never written, what is in flight, who touched it last."""

import numpy as np

NEVER, WRITTEN, IN_FLIGHT = 0, 1, 2
POISON = 0xFF  # bytes never written: as floats, NaN
PIECE = 16  # bytes that a product of a warpgroup reads at once
MANY, TAG_BITS = 63, 6  # readers of one word; a tag is epoch · 64 + warp + 1


class Shared:
    """Bytes of all CTAs, one behind the other. Addresses are within a CTA; `slots` number rows of an access's width.

    `grain`: bytes that the shadow of accesses tells apart, the narrowest access of the kernel.
    """

    def __init__(self, lanes, size, grain):
        self.limit, self.size = size, -(-max(size, 16) // 16) * 16
        total = lanes.ctas * self.size
        self.bytes, self.state = np.full(total, POISON, np.uint8), np.zeros(total, np.uint8)
        self.lanes, self.grain = lanes, grain
        self.warp_tag = (lanes.thread // 32 + 1).astype(np.uint32)
        self.epoch = np.ones(lanes.count, np.uint32)  # of a lane's CTA: how many barriers it has passed
        self.writer, self.reader = (np.zeros(total // grain, np.uint32) for _ in range(2))
        self.base = (lanes.cta * self.size).astype(np.int64)
        self.unshown = np.zeros(total // PIECE, np.uint32)  # tags of writes that matrix units cannot see yet

    def clear(self):
        """Another chunk of CTAs begins."""
        self.bytes[:], self.state[:], self.writer[:], self.reader[:], self.epoch[:] = POISON, NEVER, 0, 0, 1
        self.unshown[:] = 0

    def barrier(self, mask):
        np.add(self.epoch, 1, out=self.epoch, where=mask)

    def show(self, mask):
        """fence.proxy.async: products see what these warps wrote, and what others did before the last barrier."""
        if mask is True:
            self.unshown[:] = 0
            return
        whole = self.unshown.reshape(self.lanes.ctas, -1)
        for lane in np.flatnonzero(mask)[::32]:
            tags = whole[self.lanes.cta[lane]]
            own = (tags & np.uint32(MANY)) == self.warp_tag[lane]
            tags[own | (tags >> np.uint32(TAG_BITS) < self.epoch[lane])] = 0

    def within(self, address, width):
        """Which accesses are within the CTA's memory, and which are aligned."""
        return address + width <= self.limit, address % width == 0

    def slots(self, picked, address, width):
        return (self.base[picked] + address) // width

    def _rows(self, array, width, size):
        return array.view(f"u{size}").reshape(-1, width // size)

    def states(self, slots, width):
        """[access, byte] of the states; None if all were written."""
        part = min(width, 8)
        words = self._rows(self.state, width, part)[slots]
        if (words == np.uint64(0x0101010101010101 & ((1 << 8 * part) - 1))).all():
            return None
        return self._rows(self.state, width, 1)[slots]

    def _tags(self, picked):
        return (self.epoch[picked] << np.uint32(TAG_BITS)) | self.warp_tag[picked]

    def _grains(self, slots, width):
        """[access, grain] of places in the shadow."""
        count = width // self.grain
        if count == 1:
            return slots[:, None]
        return slots[:, None] * count + np.arange(count)

    def _others(self, shadow, grains, tags):
        """Whether another warp has left its tag in this epoch."""
        seen = shadow[grains]
        same_epoch = (seen >> np.uint32(TAG_BITS)) == (tags >> np.uint32(TAG_BITS))[:, None]
        return same_epoch & (seen != tags[:, None])

    def load(self, slots, width, size):
        return self._rows(self.bytes, width, size)[slots]

    def note_read(self, picked, slots, width):
        """Which reads meet a write by another warp without a barrier between."""
        tags, grains = self._tags(picked), self._grains(slots, width)
        racing = self._others(self.writer, grains, tags).any(1)
        many = self._others(self.reader, grains, tags)
        wanted = np.where(many, tags[:, None] | np.uint32(MANY), tags[:, None])
        self.reader[grains] = wanted
        lost = self._others(self.reader, grains, tags)  # several warps at once, of which one was kept
        if lost.any():
            self.reader[grains[lost]] |= np.uint32(MANY)
        return racing

    def note_write(self, picked, slots, width, rows, size):
        """Which writes meet an access by another warp without a barrier between; the same value again is none."""
        tags, grains = self._tags(picked), self._grains(slots, width)
        changes = (self.load(slots, width, size) != rows).any(1) if rows is not None else True
        racing = self._others(self.writer, grains, tags) | self._others(self.reader, grains, tags)
        self.writer[grains] = tags[:, None]
        self.unshown[slots * width // PIECE] = tags
        return racing.any(1) & changes

    def store(self, slots, width, rows, size, state=WRITTEN):
        """Write; which of several lanes that wrote one place at once lost theirs, of another value."""
        view = self._rows(self.bytes, width, size)
        view[slots] = rows
        self._rows(self.state, width, min(width, 8))[slots] = np.uint64(
            (0x0101010101010101 * state) & ((1 << 8 * min(width, 8)) - 1)
        ).astype(f"u{min(width, 8)}")
        return (view[slots] != rows).any(1)


class Copies:
    """Copies to shared memory in flight (cp.async): a thread sees its own when it has waited for their group."""

    def __init__(self, lanes):
        self.committed = np.zeros(lanes.count, np.int64)
        self.pending = []

    def clear(self):
        self.committed[:] = 0
        self.pending = []

    def issue(self, picked, slots, width, rows):
        self.pending.append((picked, slots, width, rows, self.committed[picked]))

    def commit(self, mask):
        np.add(self.committed, 1, out=self.committed, where=mask)

    def completed(self, mask, left):
        """The copies that are seen once at most `left` groups are in flight, and no longer pending."""
        done, pending = [], []
        for picked, slots, width, rows, group in self.pending:
            over = group < self.committed[picked] - left
            if mask is not True:
                over &= mask[picked]
            if over.all():
                done.append((picked, slots, width, rows))
                continue
            if over.any():
                done.append((picked[over], slots[over], width, rows[over]))
                picked, slots, rows, group = (x[~over] for x in (picked, slots, rows, group))
            pending.append((picked, slots, width, rows, group))
        self.pending = pending
        return done
