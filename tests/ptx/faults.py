"""What a launch did wrong: found while it runs, told once for each instruction and kind."""

from dataclasses import dataclass


class Unsupported(NotImplementedError):
    """An instruction, an operand or a launch that the machine does not know."""


class Stuck(RuntimeError):
    """Lanes wait for something that cannot come."""


@dataclass
class Fault:
    """One kind of fault of one instruction, at the first place where it was seen.

    Attributes:
        kind: "out of bounds", "outside the view", "misaligned", "uninitialised", "in flight", "race", "divergent", …
        line, text, source: of the PTX, and the Python line that it stems from.
        cta, thread: where it was first seen.
        count: how many lanes have seen it.
    """

    kind: str
    kernel: str
    line: int
    text: str
    source: str
    cta: int
    thread: int
    detail: str
    count: int = 1

    def __str__(self):
        place = f"{self.kernel}, line {self.line} ({self.source}), CTA {self.cta}, thread {self.thread}"
        return f"{self.kind}: {place}: {self.text}: {self.detail} [{self.count} lanes]"


class Faults(dict):
    """{(kernel, line, kind): Fault} of one launch or of many."""

    def report(self, kind, kernel, instruction, cta, thread, detail, count=1):
        key = kernel, instruction.line, kind
        if key in self:
            self[key].count += count
        else:
            where = instruction.line, instruction.text, instruction.source
            self[key] = Fault(kind, kernel, *where, int(cta), int(thread), detail, int(count))

    def __str__(self):
        return "\n".join(map(str, self.values()))

    def kinds(self):
        return {fault.kind for fault in self.values()}
