"""HBM of a compiled program: what the compiler allocates, its largest buffers, and out-of-memory errors."""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from tempo_jax.plan import hlo
from tempo_jax.plan.topology import GIB

MAX_BUFFERS = 5  # largest buffers that are reported
# Instructions without buffers of their own: views of others.
_VIEWS = ("parameter", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "constant")


class Buffer(NamedTuple):
    bytes: float
    shape: str
    source: str


class Memory(NamedTuple):
    """Bytes of a chip's HBM while the program runs.

    Attributes:
      peak: Peak, as the compiler reports it.
      arguments: Arguments.
      temporary: Temporaries.
      output: Results beyond donated arguments.
      unread: Arguments that jit drops because the program does not read them; they stay in HBM.
      biggest: The largest buffers.
    """

    peak: float
    arguments: float
    temporary: float
    output: float
    unread: float
    biggest: tuple[Buffer, ...]


def estimate_memory(compiled: Any, module: hlo.Module, args: Any) -> Memory:
    """The memory of a compiled program; the peak is the compiler's, since temporaries do not all coexist."""
    analysis = compiled.memory_analysis()
    arguments, temporary = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    output = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    biggest = sorted([*_arguments(args), *_values(module)], reverse=True)[:MAX_BUFFERS]
    peak = analysis.peak_memory_in_bytes or arguments + temporary + output
    all_arguments = sum(map(shard_bytes, jax.tree.leaves(args)))
    unread = max(0.0, all_arguments - arguments)
    return Memory(peak, arguments, temporary, output, unread, tuple(biggest))


def _arguments(args: Any) -> Iterator[Buffer]:
    """One chip's shard of each array."""
    for path, x in jax.tree_util.tree_flatten_with_path(args)[0]:
        if getattr(x, "sharding", None) is None or jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended):
            continue
        name = "/".join(re.findall(r"[\w/]+", jax.tree_util.keystr(path)))
        shape = x.sharding.shard_shape(x.shape)
        yield Buffer(float(shard_bytes(x)), f"{x.dtype.name}{list(shape)}", f"argument {name}")


def shard_bytes(x: Any) -> int:
    """Bytes of one chip's shard of an array, or of a shape with a sharding."""
    return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def _values(module: hlo.Module) -> Iterator[Buffer]:
    """Results of instructions outside fusions; those of one operation and shape once."""
    in_fusions = {
        called
        for instructions in module.computations.values()
        for instruction in instructions
        if instruction.op == "fusion"
        for called in instruction.calls
    }
    seen = set()
    for name, instructions in module.computations.items():
        for x in instructions if name not in in_fusions else ():
            if x.op in _VIEWS or x.shape.startswith("(") or "S(1)" in x.shape:  # S(1): VMEM
                continue
            buffer = Buffer(x.bytes, x.shape.split("{")[0], x.source)
            if buffer not in seen:
                seen.add(buffer)
                yield buffer


class OutOfMemory(NamedTuple):
    """A program that does not fit: how much HBM it needs and how much there is, as text with units."""

    needed: str
    available: str
    biggest: str

    def __str__(self) -> str:
        biggest = f"; biggest: {self.biggest}" if self.biggest else ""
        return f"does not fit: {self.needed} of {self.available} of HBM{biggest}"


def check_capacity(peak: float, resident: float, available: float) -> OutOfMemory | None:
    """Whether a program that compiles also fits beside the resident weights that it does not use."""
    if peak + resident <= available:
        return None
    sizes = (f"{size / GIB:.2f}G" for size in (peak + resident, available))
    return OutOfMemory(*sizes, f"{resident / GIB:.2f}G of weights of other programs")


_OOM_MESSAGES = (  # XLA has two wordings
    r"Used ([\d.]+\w) of ([\d.]+\w) hbm",
    r"HLO temporaries \(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)",
)


def parse_out_of_memory(error: Exception) -> OutOfMemory | None:
    """Parses a CompileTimeHbmOom, in its own units (G is GiB); None for another error."""
    text = str(error)
    if "hbm" not in text.lower() or "RESOURCE_EXHAUSTED" not in text:
        return None
    match = next((match for pattern in _OOM_MESSAGES if (match := re.search(pattern, text))), None)
    sizes = re.findall(r"Size: ([\d.]+\w)\b.*?Shape: (\S+?)[{\s]", text, re.DOTALL)
    biggest = ", ".join(f"{size} {shape}" for size, shape in sizes[:3])
    return OutOfMemory(*(match.groups() if match else ("more than there is", "what there is")), biggest)
