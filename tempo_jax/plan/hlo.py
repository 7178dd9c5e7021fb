"""Parses optimized HLO as XLA:TPU prints it (`compiled.as_text()`): computations, instructions, trip counts.

Only what the cost model needs is parsed.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "s64": 8, "u64": 8, "bf16": 2,
    "f16": 2, "f32": 4, "f64": 8, "c64": 8, "s4": 0.5, "u4": 0.5, "f8e4m3fn": 1, "f8e5m2": 1,
}  # fmt: skip
_TRACED = re.compile(r"(jit|jvp|transpose|vmap|closed_call)\b")
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_STARTS = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = ")
_ARRAY = re.compile(r"\b(\w+)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLS = re.compile(r"\b(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)")
_CONSTANT = re.compile(r"[su]32\[\](?:\{[^}]*\})? constant\((\d+)\)")
_COUNTER = re.compile(r"[su]32\[\](?:\{[^}]*\})? get-tuple-element\(.*\bindex=(\d+)")
NO_ESTIMATE = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction."""

    name: str
    shape: str  # as printed, layout included
    op: str
    rest: str  # operands and attributes

    @property
    def cycles(self) -> int:
        """The compiler's estimate; 0 where it has none, such as for a scatter on a SparseCore."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(match[1]) if match and int(match[1]) != NO_ESTIMATE else 0

    @property
    def bytes(self) -> float:
        """Bytes of its result, without padding."""
        return nbytes(self.shape)

    @property
    def operands(self) -> list[str]:
        return _NAME.findall(self.rest.split("), ")[0])

    @property
    def calls(self) -> list[str]:
        return _CALLS.findall(self.rest)

    def attribute(self, name: str) -> str | None:
        """An attribute: a computation's name, or the text in braces."""
        match = re.search(rf"\b{name}=(?:%([\w.\-]+)|\{{(.*?)\}}(?=[,\s]|$))", self.rest)
        return match and (match[1] or match[2])

    @property
    def op_name(self) -> str:
        """The operation of our program that it implements, as a path of scopes."""
        match = re.search(r'op_name="([^"]*)"', self.rest)
        return match[1] if match else ""

    @property
    def source(self) -> str:
        """The end of that path, without the scopes that transformations add."""
        parts = [p for p in self.op_name.split("/") if not _TRACED.match(p)]
        return "/".join(parts[-3:]) or self.op


@dataclasses.dataclass(frozen=True)
class Module:
    computations: dict[str, list[Instruction]]
    entry: str

    def __getitem__(self, name: str) -> list[Instruction]:
        return self.computations[name]

    def trips(self, loop: Instruction, computation: str | None = None) -> int | None:
        """How often a while loop's body runs: up to the constant that its condition compares with; None
        without one.

        Loops of JAX and of XLA count by 1, from 0, or from 1 where XLA has peeled the first iteration off:
        the start is found where the loop's computation is given.
        """
        texts = list(self._texts(loop.attribute("condition")))
        constants = [int(x) for text in texts for x in _CONSTANT.findall(text)]
        if not constants:
            return None
        start = self._start(loop, computation, texts) if computation else 0
        return max(max(constants) - start, 0)

    def _start(self, loop: Instruction, computation: str, condition: list[str]) -> int:
        """The constant that the loop's counter starts at; 0 where it is none."""
        by_name = {instruction.name: instruction for instruction in self[computation]}
        counters = {match[1] for text in condition if (match := _COUNTER.match(text))}
        state = by_name.get(next(iter(loop.operands), ""))
        if len(counters) != 1 or state is None or state.op != "tuple":
            return 0
        value = by_name.get(state.operands[int(counters.pop())])
        while value is not None and value.op in ("copy", "bitcast"):
            value = by_name.get(next(iter(value.operands), ""))
        found = value and _CONSTANT.match(f"{value.shape} {value.op}({value.rest}")
        return int(found[1]) if found else 0

    def _texts(self, name: str) -> Iterator[str]:
        for instruction in self[name]:
            yield f"{instruction.shape} {instruction.op}({instruction.rest}"
            for called in instruction.calls:
                if called in self.computations:
                    yield from self._texts(called)


def parse(text: str) -> Module:
    """Parses a module.

    Raises:
      ValueError: The text has no entry computation.
    """
    lines: dict[str, list[str]] = {}
    entry, current = None, None
    for line in text.splitlines():
        if current is None:
            header = _HEADER.match(line)
            if header:
                current = lines.setdefault(header[1], [])
                entry = header[1] if line.startswith("ENTRY") else entry
        elif line.rstrip() == "}" or line.startswith("}, execution_thread="):  # the latter of SparseCores
            current = None
        elif _STARTS.match(line):
            current.append(line)
        elif current:  # metadata of Pallas kernels has line breaks
            current[-1] += line
    if entry is None:
        raise ValueError("this is no HLO module: it has no entry computation")
    return Module({name: [_instruction(line) for line in found] for name, found in lines.items()}, entry)


def _instruction(line: str) -> Instruction:
    name, rest = line.strip().removeprefix("ROOT ").split(" = ", 1)
    if rest.startswith("("):  # a tuple's shape has spaces
        end = _closing(rest) + 1
        shape, rest = rest[:end], rest[end + 1 :]
    else:
        shape, rest = rest.split(" ", 1)
    op, _, rest = rest.partition("(")
    return Instruction(name.lstrip("%"), shape, op, rest)


def _closing(text: str) -> int:
    """Index at which the parenthesis at the start of the text is closed."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return index
    raise ValueError(f"a parenthesis is never closed in {text[:80]}")


def shapes(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """Data type and size of every array in a printed shape: [("bf16", (8, 128)), ...]."""
    return [
        (kind, tuple(int(n) for n in sizes.split(",") if n))
        for kind, sizes in _ARRAY.findall(text)
        if kind in BYTES
    ]


def nbytes(text: str) -> float:
    """Bytes of all arrays in a printed shape."""
    return sum(array_bytes(dtype, size) for dtype, size in shapes(text))


def array_bytes(dtype: str, size: tuple[int, ...]) -> float:
    return BYTES[dtype] * math.prod(size)
