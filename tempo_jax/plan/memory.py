"""HBM of a compiled program: what the compiler allots, its biggest buffers, and its refusals."""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from tempo_jax.plan import hlo
from tempo_jax.plan.chips import GIB

MAX_BUFFERS = 5  # buffers that are named
# No buffers of their own: names for parts of others.
_VIEWS = ("parameter", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "constant")


class Buffer(NamedTuple):
    bytes: float
    shape: str
    what: str


class Memory(NamedTuple):
    """Bytes a chip needs while the program runs."""

    peak: float
    arguments: float
    temporary: float
    output: float  # beyond donated arguments
    idle: float  # of arguments that jit leaves out, as nothing is read from them; they stay where they are
    biggest: tuple[Buffer, ...]


def estimate_memory(compiled: Any, module: hlo.Module, args: Any) -> Memory:
    """The peak is the compiler's: temporaries, summed up, also have what is never there at the same time."""
    found = compiled.memory_analysis()
    arguments, temporary = found.argument_size_in_bytes, found.temp_size_in_bytes
    output = found.output_size_in_bytes - found.alias_size_in_bytes
    biggest = sorted([*_arguments(args), *_values(module)], reverse=True)[:MAX_BUFFERS]
    peak = found.peak_memory_in_bytes or arguments + temporary + output
    given = sum(map(shard_bytes, jax.tree.leaves(args)))
    return Memory(peak, arguments, temporary, output, max(0.0, given - arguments), tuple(biggest))


def _arguments(args: Any) -> Iterator[Buffer]:
    """Each array's share of one chip."""
    for path, x in jax.tree_util.tree_flatten_with_path(args)[0]:
        if getattr(x, "sharding", None) is None or jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended):
            continue
        name = "/".join(re.findall(r"[\w/]+", jax.tree_util.keystr(path)))
        shape = x.sharding.shard_shape(x.shape)
        yield Buffer(float(shard_bytes(x)), f"{x.dtype.name}{list(shape)}", f"argument {name}")


def shard_bytes(x: Any) -> int:
    """One chip's part of an array, or of a shape with a place."""
    return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def _values(module: hlo.Module) -> Iterator[Buffer]:
    """Results of instructions outside fusions; the same place of a loop once."""
    inside = {
        called
        for instructions in module.computations.values()
        for instruction in instructions
        if instruction.op == "fusion"
        for called in instruction.calls
    }
    seen = set()
    for name, instructions in module.computations.items():
        for x in instructions if name not in inside else ():
            if x.op in _VIEWS or x.shape.startswith("(") or "S(1)" in x.shape:  # S(1): VMEM
                continue
            buffer = Buffer(x.bytes, x.shape.split("{")[0], x.source)
            if buffer not in seen:
                seen.add(buffer)
                yield buffer


class OutOfMemory(NamedTuple):
    """The compiler's answer to a program that does not fit."""

    used: str
    available: str
    biggest: str

    def __str__(self) -> str:
        named = f"; biggest: {self.biggest}" if self.biggest else ""
        return f"does not fit: {self.used} of {self.available} of HBM{named}"


def check_capacity(peak: float, beside: float, available: float) -> OutOfMemory | None:
    """Of a program that compiles and yet does not fit beside the weights that it does not use."""
    if peak + beside <= available:
        return None
    sizes = (f"{size / GIB:.2f}G" for size in (peak + beside, available))
    return OutOfMemory(*sizes, f"{beside / GIB:.2f}G of weights of other programs")


_REFUSALS = (  # XLA's two ways to say it
    r"Used ([\d.]+\w) of ([\d.]+\w) hbm",
    r"HLO temporaries \(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)",
)


def parse_out_of_memory(error: Exception) -> OutOfMemory | None:
    """What a CompileTimeHbmOom says, in its own units (GiB as G); None for another error."""
    text = str(error)
    if "hbm" not in text.lower() or "RESOURCE_EXHAUSTED" not in text:
        return None
    used = next((found for pattern in _REFUSALS if (found := re.search(pattern, text))), None)
    sizes = re.findall(r"Size: ([\d.]+\w)\b.*?Shape: (\S+?)[{\s]", text, re.DOTALL)
    biggest = ", ".join(f"{size} {shape}" for size, shape in sizes[:3])
    return OutOfMemory(*(used.groups() if used else ("more than there is", "what there is")), biggest)
