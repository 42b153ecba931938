"""What `accelerate` did, as data and as a table."""

from dataclasses import dataclass

ACCELERATED, ALREADY, LEFT = "accelerated", "fast already", "left as it is"


@dataclass(frozen=True)
class Entry:
    """One module: its name in what was given, its class, what became of it, and how or why."""

    name: str
    kind: str
    outcome: str
    why: str


@dataclass(frozen=True, repr=False)
class Report:
    """What `accelerate` did. True where at least one module is fast now; shows itself as a table."""

    entries: tuple[Entry, ...]

    def __bool__(self) -> bool:
        return any(entry.outcome != LEFT for entry in self.entries)

    def __str__(self) -> str:
        from tabulate import tabulate

        if not self.entries:
            return "no discriminator of waveforms found"
        rows, said = [], set()
        for e in self.entries:  # a reason that a set and its members share is said once
            rows.append((e.name or "(itself)", e.kind, e.outcome, "the same" if e.why in said else e.why))
            said.add(e.why if e.outcome == LEFT else None)
        return tabulate(
            rows, headers=("module", "class", "outcome", "how, or why"), maxcolwidths=[None, None, None, 80]
        )

    __repr__ = __str__
