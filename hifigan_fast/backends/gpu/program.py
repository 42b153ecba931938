"""A pass as a program: its launches, made once, and run again on other buffers of the same kinds.

What an operation does on the host (which configuration, grid and tables, which view goes where) follows from shapes and
kinds alone. So the first call of a pass is recorded: each launch, its pointers as places in the pass's inputs or in
buffers that it allocates. A later call takes addresses, fills them in, and launches.
"""

import functools
import itertools
import math
import operator

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ..contract import ALIGNED
from ..kept import capturing
from .counters import counters
from .driver import Launches, Place
from .kernels import heard_by, instead, recording

MOST = 32  # programs of an ensemble's shapes
LINE = 512  # bytes: buffers begin at a multiple, as those of PyTorch's allocators do
_held = set()  # programs that a CUDA graph took, whose tables it reads


def empty(shape, dtype, device):
    """A buffer that the pass in progress allocates."""
    tensor = torch.empty(shape, dtype=dtype, device=device)
    if recording():
        recording().allocated(tensor)
    return tensor


def not_again():
    """Some of what the pass in progress does is not a launch: it cannot become a program."""
    if recording():
        recording().complete = False


def again(kernels, programs, key, inputs, run):
    """`run()`, lists of the buffers that it allocates; by the program of an earlier run, where there is one.

    Args:
        programs: a dict to keep them in, for one ensemble.
        kernels: that it launches.
        key: what else than the kinds of its inputs a pass goes by.
        inputs: all tensors that its launches read or write, but for those that it allocates; or None.
    """
    if instead() is not None or recording():  # what is part of a pass belongs to its program
        return run()
    addresses = [0 if t is None else t.data_ptr() for t in inputs]
    misaligned = functools.reduce(operator.or_, addresses) % ALIGNED and [a % ALIGNED for a in addresses]
    key = (*key, *[None if t is None else t.dtype for t in inputs], tuple(misaligned) if misaligned else None)
    program = programs.get(key)
    if program and not kernels.watched():
        return program(addresses)
    heard = Recording(kernels, inputs, addresses)
    if program is not None or heard.overlaps():  # there is none, or not now
        return run()
    with heard_by(heard):
        results = run()
    if len(programs) >= MOST:
        programs.clear()
    programs[key] = heard.program(results) or False
    return results


class Recording:
    """The pass in progress."""

    def __init__(self, kernels, inputs, addresses):
        self.kernels, self.inputs = kernels, len(inputs)
        self.slots = [(a, a + (0 if t is None else t.nbytes), None) for t, a in zip(inputs, addresses)]
        self.begins = {first: slot for slot, (first, end, _) in enumerate(self.slots) if first < end}
        self.buffers, self.launches, self.complete = [], [], True  # buffers: (shape, dtype, device), after the inputs
        self.counters, self.aligned = {}, {}  # {slot: how many}; {(first, end) of what `from_aligned` made: its place}

    def overlaps(self):
        """Whether inputs share memory: which of two a launch means would not be known."""
        spans = sorted((first, end) for first, end, _ in self.slots if first < end)
        return any(first < end for (_, end), (first, _) in itertools.pairwise(spans))

    def allocated(self, tensor):
        memory = StorageWeakRef(tensor.untyped_storage())
        self.slots.append((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes, memory))
        self.begins[tensor.data_ptr()] = len(self.slots) - 1
        self.buffers.append((tuple(tensor.shape), tensor.dtype, tensor.device))

    def counted(self, tensor, count):
        """Of `counters.counters`, which each run asks for anew."""
        self.counters[len(self.slots)] = count
        self.allocated(tensor)

    def begins_before(self, memory, tensor):
        """`memory` is `tensor` from the aligned address before it: so it is of all inputs that are aligned alike."""
        place = self.place(tensor)
        if place:
            before = tensor.data_ptr() - memory.data_ptr()
            span = memory.data_ptr(), memory.data_ptr() + memory.nbytes
            self.aligned[span] = Place(place.slot, place.offset - before)

    def place(self, tensor):
        """Its `Place`; None where no slot that is still there has all of it."""
        address = tensor.data_ptr()
        known = self.aligned.get((address, address + tensor.nbytes))
        if known:
            return known
        likely = self.begins.get(address)
        for slot in range(len(self.slots)) if likely is None else (likely,):
            first, end, memory = self.slots[slot]
            inside = first <= address < end and address + tensor.nbytes <= end
            if inside and (memory is None or not memory.expired()):
                return Place(slot, address - first)
        return None

    def add(self, run, grid, args):
        launch = Launch(run, grid)
        launch.arguments = tuple([self._argument(launch, a) for a in args])
        self.launches.append(launch)

    def _argument(self, launch, argument):
        """An argument as it is kept: a pointer as its place in a slot, or as the number that it will stay."""
        if isinstance(argument, tuple):
            return tuple([self._argument(launch, own) for own in argument])
        if not isinstance(argument, torch.Tensor):
            return argument
        found = self.place(argument)
        if found is None:
            self.complete &= argument.dtype == torch.int64  # a table
            launch.tables.append(argument)
            return argument.data_ptr()
        launch.slots.add(found.slot)
        return found

    def program(self, results):
        """The `Program`; None where it would not be the same again."""
        places = [[self.place(t) for t in own] for own in results]
        whole = all(p is not None and p.slot >= self.inputs and p.offset == 0 for own in places for p in own)
        if not (self.complete and self.launches and self.buffers and whole):
            return None
        return Program(self, [[place.slot for place in own] for own in places])


class Launch:
    """One launch of a program.

    Attributes:
        run: as of `Kernels.run`.
        arguments: of it, addresses as `Place`s.
        slots: that it reads or writes; tables: kept as long as it.
    """

    def __init__(self, run, grid):
        self.run, self.grid, self.arguments = run, grid, ()
        self.slots, self.tables = set(), []

    @property
    def driven(self):
        """What `driver.Launches` takes of it; None where the driver is not to be asked by itself."""
        found = getattr(self.run, "driven", lambda arguments: None)(self.arguments)
        return found and (found[0], self.grid, found[1])


class Program:
    """Launches by slots: first the inputs', then those of the buffers that it allocates.

    What it returns is allocated one by one. All else lies in one buffer, in places that later ones take again.

    results: the slots of what it returns.
    """

    def __init__(self, recording, results):
        self.kernels, first = recording.kernels, recording.inputs
        self.launches, self.results = recording.launches, results
        self.buffers, self.device = recording.buffers, recording.buffers[0][2]
        returned, spans = {slot for own in results for slot in own}, {}
        self.counters = list(recording.counters.items())
        for number, launch in enumerate(self.launches):
            for slot in sorted(slot for slot in launch.slots if slot >= first):
                spans[slot] = spans.get(slot, (number,))[0], number
        self.fresh = [(slot, self.buffers[slot - first]) for slot in spans if slot in returned]
        sizes = {slot: math.prod(shape) * dtype.itemsize for slot, (shape, dtype, _) in enumerate(self.buffers, first)}
        elsewhere = returned.union(recording.counters)
        self.places, self.bytes = laid_out({s: (*span, sizes[s]) for s, span in spans.items() if s not in elsewhere})
        driven = [launch.driven for launch in self.launches]
        self.driven = Launches(driven) if all(driven) else None

    def __call__(self, addresses):
        if capturing():
            _held.add(self)
        tensors, kept = {}, []
        addresses += [0] * len(self.buffers)
        if self.places:
            kept.append(torch.empty(self.bytes, dtype=torch.uint8, device=self.device))
            begin = kept[0].data_ptr()
            for slot, place in self.places:
                addresses[slot] = begin + place
        for slot, count in self.counters:
            kept.append(counters(self.device, count))
            addresses[slot] = kept[-1].data_ptr()
        for slot, (shape, dtype, device) in self.fresh:
            tensors[slot] = tensor = torch.empty(shape, dtype=dtype, device=device)
            addresses[slot] = tensor.data_ptr()
        with self.kernels.on_device(self.device) as (index, stream):
            if self.driven:
                self.driven(index, stream, addresses)
            else:
                for launch in self.launches:
                    launch.run(launch.grid, stream, _filled(launch.arguments, addresses))
        return [[tensors[slot] for slot in own] for own in self.results]


def _filled(arguments, addresses):
    """Arguments with addresses in the place of `Place`s."""
    if isinstance(arguments, Place):
        return addresses[arguments.slot] + arguments.offset
    return tuple([_filled(own, addresses) for own in arguments]) if isinstance(arguments, tuple) else arguments


def laid_out(spans):
    """Places in one buffer for memory that is needed for a while: [(slot, first byte)], and the bytes of all.

    spans: {slot: (first launch that needs it, last, bytes)}. Each gets the first place that is free for so long.
    """
    placed, total = [], 0
    for slot, (first, last, size) in spans.items():
        size = -(-size // LINE) * LINE
        place = 0
        for other, end, begin, until in sorted((at, at + n, f, u) for _, at, n, f, u in placed):
            if begin <= last and first <= until and other < place + size:
                place = max(place, end)
        placed.append((slot, place, size, first, last))
        total = max(total, place + size)
    return [(slot, place) for slot, place, *_ in placed], total
