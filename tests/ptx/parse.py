"""PTX text -> a `Kernel`: instructions with their operands told apart, basic blocks, parameters."""

import re
from dataclasses import dataclass, field

from .faults import Unsupported

REGISTER = re.compile(r"%(p|rs|rd|r|fd|f)(\d+)$")
SPECIAL = re.compile(r"%(tid|ntid|ctaid|nctaid|laneid|warpid)(?:\.([xyz]))?$")
NUMBER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|\d+)U?$")
FLOAT = re.compile(r"0([fFdD])([0-9a-fA-F]+)$")
ENDS = ("bra", "brx", "ret", "exit", "bar")  # of a basic block
SIZES = {"u64": 8, "b64": 8, "s64": 8, "f64": 8, "u32": 4, "b32": 4, "s32": 4, "f32": 4, "u16": 2, "b16": 2, "s16": 2}
SIZES |= {"f16": 2, "u8": 1, "b8": 1, "s8": 1}


@dataclass(frozen=True)
class Reg:
    kind: str  # "p", "rs", "r", "rd", "f", "fd"
    number: int


@dataclass(frozen=True)
class Imm:
    """Bits of a constant: of an integer as they are, of a float as an unsigned integer."""

    bits: int


@dataclass(frozen=True)
class Special:
    name: str
    axis: str


@dataclass(frozen=True)
class Symbol:
    name: str


@dataclass(frozen=True)
class Address:
    base: object  # Reg, Symbol or Imm
    offset: int


@dataclass(frozen=True)
class Vector:
    parts: tuple


@dataclass
class Instruction:
    """One instruction: `name` before the first dot, `mods` behind it; `guard` is (Reg, whether it is negated)."""

    number: int
    name: str
    mods: tuple
    operands: tuple
    guard: tuple | None
    line: int
    text: str
    source: str

    @property
    def kind(self):
        """The type that it works in."""
        return self.mods[-1]


@dataclass
class Block:
    begin: int
    end: int


@dataclass
class Kernel:
    """An entry of a PTX module.

    Attributes:
        params: [(name, bytes, alignment)] in order.
        registers: {kind: how many}.
        labels: {label: number of the instruction it stands before}; tables: {name: labels}, of brx.idx.
        blocks: basic blocks in order; `block_at`: {first instruction: block's number}.
        shared: bytes that the module itself declares (the launch may say more).
    """

    name: str
    params: list
    registers: dict
    instructions: list
    labels: dict
    tables: dict
    symbols: dict
    threads: int
    blocks: list = field(default_factory=list)
    block_at: dict = field(default_factory=dict)


def operand(text):
    """One operand's text -> what it is."""
    text = text.strip()
    if text.startswith("{"):
        return Vector(tuple(operand(part) for part in text[1:-1].split(",")))
    if text.startswith("["):
        return _address(text[1:-1].strip())
    if found := REGISTER.match(text):
        return Reg(found[1], int(found[2]))
    if found := SPECIAL.match(text):
        return Special(found[1], found[2] or "x")
    if NUMBER.match(text):
        return Imm(int(text.rstrip("U"), 0))
    if found := FLOAT.match(text):
        return Imm(int(found[2], 16))
    if "|" in text:
        return Vector(tuple(operand(part) for part in text.split("|")))
    if re.match(r"[A-Za-z_$][\w$.]*$", text):
        return Symbol(text)
    raise Unsupported(f"operand: {text!r}")


def _address(text):
    found = re.match(r"(\S+?)\s*(?:\+\s*(-?\w+))?$", text)
    return Address(operand(found[1]), int(found[2], 0) if found[2] else 0)


def _split(text):
    """Operands, at the commas outside of braces and brackets."""
    return [part for part in re.split(r",\s*(?![^{\[]*[}\]])", text) if part.strip()]


def _source(code, comment, files):
    """A `.loc` as "file:line", of Python by what Triton says behind it; None if nothing is known."""
    if found := re.search(r"([\w.]+\.py:\d+)", comment):
        return found[1]
    number, line = code.split()[1:3]
    return f"{files[number]}:{line}" if files.get(number, "").endswith((".cu", ".cuh")) else None


def _statements(text, files):
    """(line number, statement, source line) of a body; labels as "name:"."""
    source, waiting = "?", ""
    for number, line in enumerate(text.split("\n"), 1):
        code, _, comment = line.partition("//")
        code = code.strip()
        if code.startswith(".loc"):
            source = _source(code, comment, files) or source
            continue
        for label in re.findall(r"^[\w$]+:", code):
            yield number, label, source
            code = code[len(label) :].strip()
        if waiting or code.startswith(".branchtargets"):  # over several lines
            waiting += " " + code
            if ";" in code:
                yield number, waiting.strip().rstrip(";"), source
                waiting = ""
            continue
        if code in ("", "{", "}", ")", "("):
            continue
        for statement in code.strip("{}\t ").split(";") if not _has_vector(code) else [code.rstrip(";")]:
            if statement.strip():
                yield number, statement.strip(), source


def _has_vector(code):
    return "{" in code and "," in code


def _instruction(number, line, text, source):
    guard, rest = None, text
    if found := re.match(r"@(!?)(%p\d+)\s+", text):
        guard, rest = (operand(found[2]), found[1] == "!"), text[found.end() :]
    opcode, _, operands = re.sub(r"\s+", " ", rest).partition(" ")
    name, *mods = opcode.replace("::", "__").split(".")
    return Instruction(number, name, tuple(mods), tuple(map(operand, _split(operands))), guard, line, text, source)


def _params(header):
    found = re.findall(
        r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)((?:\s+\.ptr)?[^,\n)]*?)\s+(\w+)(?:\[(\d+)\])?\s*[,\n]", header + "\n"
    )
    sized = [(name, SIZES[kind] * int(count or 1), int(align or 0)) for align, kind, _, name, count in found]
    return [(name, size, align or size) for name, size, align in sized]


def _symbols(text):
    """{shared symbol: (address, bytes)} of the module; of one without a size the launch knows it."""
    at, found = 0, {}
    declared = re.findall(r"\.shared\s+\.align\s+(\d+)\s+\.(\w+)\s+(\w+)(?:\[(\d*)\])?;", text)
    declared = [(*rest, count or ("" if f"{rest[2]}[" in text else "1")) for *rest, count in declared]
    for align, kind, name, count in sorted(declared, key=lambda own: not own[3]):  # the launch's behind the module's
        at = -(-at // int(align)) * int(align)
        found[name] = at, int(count or 0) * SIZES[kind]
        at += found[name][1]
    return found


def _blocks(kernel):
    targets = set(kernel.labels.values()) | {0}
    for i in kernel.instructions:
        if i.name in ENDS:
            targets.add(i.number + 1)
    begins = sorted(t for t in targets if t < len(kernel.instructions))
    kernel.blocks = [Block(*pair) for pair in zip(begins, [*begins[1:], len(kernel.instructions)])]
    kernel.block_at = {block.begin: number for number, block in enumerate(kernel.blocks)}


def _used_labels(body):
    return set(re.findall(r"\$L__BB\w+", re.sub(r"^\S+:", "", body, flags=re.M)))


def parse(text):
    """The only entry of a module -> `Kernel`."""
    start = re.search(r"\.entry\s+(\w+)\s*\(", text)
    opening = text.index("\n{", start.end())
    closing = text.index("\n}", opening)
    header, body = text[start.start() : opening], text[opening + 2 : closing]
    first_line = text[: opening + 2].count("\n")
    threads = re.search(r"\.reqntid\s+(\d+)", header)
    kernel = Kernel(start[1], _params(header), {}, [], {}, {}, _symbols(text), int(threads[1]) if threads else 0)
    used, pending = _used_labels(body), None
    files = {number: name.rpartition("/")[2] for number, name in re.findall(r'\.file\s+(\d+)\s+"([^"]+)"', text)}
    for line, statement, source in _statements(body, files):
        if statement.endswith(":"):
            pending = statement[:-1]
            if pending in used and pending.startswith("$L"):
                kernel.labels[pending] = len(kernel.instructions)
        elif statement.startswith(".branchtargets"):
            kernel.tables[pending] = re.findall(r"\$L\w+", statement)
        elif found := re.match(r"\.reg\s+\.\w+\s+%(\w+)<(\d+)>", statement):
            kernel.registers[found[1]] = int(found[2])
        elif not statement.startswith("."):
            number = len(kernel.instructions)
            kernel.instructions.append(_instruction(number, line + first_line, statement, source))
    _blocks(kernel)
    return kernel
