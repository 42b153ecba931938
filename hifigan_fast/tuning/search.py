"""Rounds of candidates: all of a round are compiled side by side, then timed while nothing compiles.

A candidate counts only if its results are the reference's: some are silently wrong on some versions of Triton.
"""

import contextlib
import heapq
import math
from dataclasses import dataclass, field, replace

import torch

from ..backends.triton import TritonBackend, ahead, configs, others
from . import candidates
from .cases import DTYPES, Case, agrees

FINALISTS = 3  # on the layer of the most work, that are timed on all of a class
CLEARLY = 0.98  # of a time: what is not faster than that changes nothing


@dataclass
class Entry:
    """An entry of the table, as it is searched for.

    Attributes:
        places: its layers, that of the most work first.
        before: the configuration in use, of Triton's kernels.
        tried: {configuration: milliseconds} on the first layer; infinite of what does not run or is wrong.
    """

    direction: str
    arithmetic: str
    name: str
    places: list
    before: configs.Config
    tried: dict = field(default_factory=dict)

    def __str__(self):
        return f"{self.direction}, {self.arithmetic}, {self.name}"

    @property
    def what(self):
        """As `candidates` asks for it."""
        return self.direction, self.arithmetic, self.places[0].layer

    def fastest(self, count):
        return heapq.nsmallest(count, self.tried, key=self.tried.get)


@dataclass(frozen=True)
class Found:
    """The configuration to take, and {who runs it: milliseconds}, of all layers of the class."""

    config: configs.Config
    ms: dict

    def __str__(self):
        times = ", ".join(f"{by} {ms:.3f} ms" for by, ms in self.ms.items())
        return f"{times}: {self.config.by}, {_brief(self.config)}"


def _brief(config):
    blocks = "×".join(map(str, (config.BM, config.BN, config.BK)))
    return f"{blocks}, {config.num_warps} warps, {config.num_stages} stages"


def do_bench(call):
    from triton.testing import do_bench

    return do_bench(call, warmup=3, rep=15, return_mode="median")


@contextlib.contextmanager
def _searching(algorithms):
    """Within the block cudnn.benchmark is this, which HiFi-GAN's training has True."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, algorithms
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _shared_memory(device):
    """Bytes of it that a program may have; where there is no GPU, a large one's."""
    if device.type != "cuda":
        return 227 << 10
    from triton.runtime import driver

    index = torch.cuda.current_device() if device.index is None else device.index
    return driver.active.utils.get_device_properties(index)["max_shared_mem"]


class Bench:
    """Compiles and times configurations on a device.

    Args:
        timed: a function of a call -> its milliseconds.
    """

    def __init__(self, device, timed=do_bench, say=print):
        self.device, self.timed, self.say = device, timed, say
        self.backend, self.shared = TritonBackend(), _shared_memory(device)

    def _cases(self, entry, whole):
        """Of the first layer alone, or of all, as both steps have them."""
        for place in entry.places if whole else entry.places[:1]:
            yield Case(place, entry.direction, DTYPES[entry.arithmetic], self.device, matching=whole)

    def rivals(self, entry):
        """Configurations by others than Triton, which run all of an entry's layers here."""
        like, found = torch.empty(0, dtype=DTYPES[entry.arithmetic], device=self.device), []
        for by in configs.WAYS[1:]:
            found.append(replace(entry.before, by=by))
            with configs.trying(found[-1]):
                if not all(others.stand_in(entry.direction, own.role, own.layer, like) for own in entry.places):
                    found.pop()
        return found

    def compile(self, wanted, whole):
        """Compile what `times` would launch, side by side: of [(entry, configurations)]."""
        if ahead.interpreting():
            return
        with ahead.side_by_side():
            for entry, own in wanted:
                for case in self._cases(entry, whole):
                    call = case.call(self.backend)
                    for config in own:
                        if config.by != "library":
                            with configs.trying(config), contextlib.suppress(Exception):  # when timed, it says why
                                call()

    def times(self, entry, own, whole):
        """{configuration: milliseconds} of an entry's first layer, or of all together."""
        found = dict.fromkeys(own, 0.0)
        for case in self._cases(entry, whole):
            right, call = case.right(), case.call(self.backend)
            for config in own:
                if found[config] < math.inf:
                    found[config] += self._time(entry, call, config, right)
        return found

    def _time(self, entry, call, config, right):
        what = f"{entry}: {config.by}, {_brief(config)}"
        try:
            with configs.trying(config), _searching(config.by == "library"):
                if agrees(call(), right):
                    return self.timed(call)
            self.say(f"    {what}: wrong results")
        except Exception as error:  # whatever the compiler or the device refuses it with
            self._survive(f"{what}: {type(error).__name__}", error)
        return math.inf

    def _survive(self, what, error):
        """Go on if the device does."""
        try:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        except RuntimeError:
            raise OSError(f"device: lost after {what}: {error}; what was found before is kept") from error
        self.say(f"    {what}")


def explore(bench, entries):
    """Try configurations on each entry's first layer, in two rounds: the larger tiles, and the fastest's neighbours."""

    def tiles(entry):
        return [entry.before, *candidates.first(*entry.what, bench.shared)]

    def near(entry):
        return candidates.neighbours(*entry.fastest(1), *entry.what, bench.shared)

    for choose in tiles, near:
        wanted = [(entry, [own for own in dict.fromkeys(choose(entry)) if own not in entry.tried]) for entry in entries]
        bench.compile(wanted, whole=False)
        for entry, own in wanted:
            entry.tried.update(bench.times(entry, own, whole=False))
            best = "; ".join(f"{entry.tried[config]:.3f} ms {_brief(config)}" for config in entry.fastest(FINALISTS))
            bench.say(f"    {entry}: of {len(entry.tried)}: {best}; was {entry.tried[entry.before]:.3f} ms")


def decide(bench, entries):
    """Time the fastest of each entry, the one in use and the rivals on all layers; yields (entry, `Found`)."""
    wanted = [
        (entry, [*dict.fromkeys([entry.before, *entry.fastest(FINALISTS)]), *bench.rivals(entry)]) for entry in entries
    ]
    bench.compile(wanted, whole=True)
    for entry, own in wanted:
        yield entry, _found(entry.before, bench.times(entry, own, whole=True))


def _found(before, times):
    """What is clearly faster than what was, by whom too, of {configuration: milliseconds}."""
    ours = [config for config in times if config.by == "triton"]
    best = min(ours, key=times.get)
    best = best if times[best] < CLEARLY * times[before] else before
    compared = {config: ms for config, ms in times.items() if config == best or config not in ours}
    rival = min(compared, key=compared.get)
    by = rival.by if compared[rival] < CLEARLY * compared[best] else "triton"
    return Found(replace(best, by=by), {config.by: ms for config, ms in compared.items() if ms < math.inf})
