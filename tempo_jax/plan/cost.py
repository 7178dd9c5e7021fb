"""Seconds of a compiled program: estimated cycles of every instruction times how often it runs.

XLA:TPU writes its own estimate beside each fusion and each matrix product; a loop's body stands in the text
once, so it is multiplied by the loop's trip count. Two things have no estimate and are costed here:
collectives (bytes over the torus) and Pallas kernels (FLOPs at an assumed efficiency).
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from tempo_jax.models.kernels import decode_attention, qk_norm_rope, vision_attention
from tempo_jax.models.kernels.splash import SUPPORTED_HEAD_DIMS, block_sizes
from tempo_jax.plan import collectives, hlo
from tempo_jax.plan.chips import (
    CACHE_READ_BANDWIDTH_FRACTION,
    COPY_BANDWIDTH_FRACTION,
    KERNEL_EFFICIENCY,
    LAUNCH_CYCLES,
    Chip,
)
from tempo_jax.plan.collectives import Collective

_PRODUCTS = ("convolution", "dot")
_OURS = re.compile(rf"{vision_attention.NAME}_(\d+)")  # the size of a head
MAX_HOTSPOTS = 12  # places that a plan names


class Hotspot(NamedTuple):
    """What instructions of one place in our program take together."""

    seconds: float
    what: str  # hlo.Instruction.source, and the shape of one result


class Cost(NamedTuple):
    """Of one run of a program on one chip; where it has loops of unknown length, of one turn of them."""

    matmul_seconds: float  # fusions around matrix products
    other_seconds: float  # the rest of what has an estimate
    kernel_seconds: float  # Pallas kernels, assumed
    kernels: int  # of them in the text
    collectives: tuple[Collective, ...]
    dynamic_loops: int  # loops whose length is not a constant
    overhead_seconds: float = 0.0  # beside open loops: what runs before and after them
    longest: tuple[Hotspot, ...] = ()  # of everything but collectives

    @property
    def compute_seconds(self) -> float:
        return self.matmul_seconds + self.other_seconds + self.kernel_seconds

    @property
    def exposed_seconds(self) -> float:
        """Of communication: synchronous collectives, and what does not hide behind all computation."""
        hidden = sum(c.seconds for c in self.collectives if c.asynchronous)
        return sum(c.seconds for c in self.collectives if not c.asynchronous) + max(
            0.0, hidden - self.compute_seconds
        )

    @property
    def seconds(self) -> float:
        return self.compute_seconds + self.exposed_seconds


class _Run(NamedTuple):
    """An instruction, how often it runs, and whether in an asynchronous fusion."""

    instruction: hlo.Instruction
    computation: str
    trips: float
    inside: bool  # a fusion whose own estimate covers it
    asynchronous: bool
    turning: bool = False  # in a loop of unknown length


def estimate_cost(module: hlo.Module, mesh, chip: Chip, label_fraction: float = 1.0) -> Cost:
    """labels: share of the runs of a conditional that take its expensive branch (losses.cross_entropy)."""
    runs = list(_walk(module, module.entry, 1.0, label_fraction))
    turning = [run for run in runs if run.turning]
    if not turning:
        return _sum(runs, module, mesh, chip)
    once = _sum([run for run in runs if not run.turning], module, mesh, chip)
    loops = sum(run.instruction.op == "while" and module.trips(run.instruction) is None for run in runs)
    return _sum(turning, module, mesh, chip)._replace(dynamic_loops=loops, overhead_seconds=once.seconds)


def _sum(runs: list[_Run], module: hlo.Module, mesh, chip: Chip) -> Cost:
    matmul = other = assumed = 0.0
    kernels = 0
    found = []
    places: dict[str, float] = defaultdict(float)
    for run in runs:
        instruction = run.instruction
        if collectives.kind_of(instruction):
            found.append(
                collectives.estimate_collective(instruction, mesh, chip, run.trips, run.asynchronous)
            )
        elif instruction.op == "custom-call" and "tpu_custom_call" in instruction.rest:
            work = kernel(instruction, module[run.computation])
            moving = (
                work.moved / COPY_BANDWIDTH_FRACTION + work.read / CACHE_READ_BANDWIDTH_FRACTION
            ) / chip.hbm_bandwidth
            computing = work.flops / _kernel_rate(work.size, chip)
            seconds = run.trips * (computing + moving + chip.seconds(LAUNCH_CYCLES))
            kernels += 1
            assumed += seconds
            places[_place(instruction)] += seconds
        if not run.inside and instruction.cycles:
            seconds = chip.seconds(instruction.cycles) * run.trips
            places[_place(instruction)] += seconds
            if _is_product(module, instruction):
                matmul += seconds
            else:
                other += seconds
    longest = sorted((Hotspot(seconds, what) for what, seconds in places.items()), reverse=True)[
        :MAX_HOTSPOTS
    ]
    return Cost(matmul, other, assumed, kernels, tuple(found), 0, longest=tuple(longest))


def _place(instruction: hlo.Instruction) -> str:
    kind, size = next(iter(hlo.shapes(instruction.shape)), ("", ()))
    return f"{instruction.source} {kind}[{','.join(map(str, size))}]"


def _walk(module: hlo.Module, name: str, trips: float, labels: float) -> Iterator[_Run]:
    """Every instruction that runs, loops unrolled into `trips`; fusions are entered for collectives alone."""
    for instruction in module[name]:
        started = instruction.op.endswith("-start") or "async_collective" in instruction.rest
        yield _Run(instruction, name, trips, False, started)
        if instruction.op == "while":
            turns = module.trips(instruction)
            for run in _walk(module, instruction.attribute("body"), trips * (turns or 1), labels):
                yield run._replace(turning=run.turning or turns is None)
        elif instruction.op == "conditional":
            yield from _branches(module, instruction, trips, labels)
        elif instruction.op in ("fusion", "custom-call"):
            for called in instruction.calls:
                yield from _fused(module, called, trips, labels)
        elif instruction.op in ("call", "async-start", "call-start"):  # the last: on SparseCores
            for called in instruction.calls:
                for run in _walk(module, called, trips, labels):
                    yield run._replace(asynchronous=run.asynchronous or instruction.op != "call")


def _fused(module: hlo.Module, name: str, trips: float, labels: float) -> Iterator[_Run]:
    """What a fusion holds. A collective that is fused with the products it hides behind stands in all of
    them, from one that starts it to one that ends it; a sum of which a chip keeps its part moves half."""
    starts = any('"AsyncCollectiveStart"' in instruction.rest for instruction in module[name])
    for run in _walk(module, name, trips, labels):
        instruction = run.instruction
        if collectives.kind_of(instruction) and "chain_id=" in instruction.rest and not starts:
            continue
        if instruction.op == "all-reduce" and name.startswith("all-reduce-scatter"):
            instruction = dataclasses.replace(instruction, op="reduce-scatter", shape=module[name][-1].shape)
        yield run._replace(instruction=instruction, inside=True, asynchronous=run.asynchronous or starts)


def _branches(module: hlo.Module, instruction: hlo.Instruction, trips: float, labels: float):
    """The branch with the most work, in its share of the runs."""
    names = re.findall(r"%([\w.\-]+)", instruction.attribute("branch_computations") or "")
    names = names or [instruction.attribute(f"{which}_computation") for which in ("true", "false")]
    work = {
        name: sum(run.instruction.cycles * run.trips for run in _walk(module, name, 1.0, labels))
        for name in names
    }
    if work:
        yield from _walk(module, max(work, key=work.get), trips * labels, labels)


def _is_product(module: hlo.Module, instruction: hlo.Instruction) -> bool:
    if instruction.op in _PRODUCTS:
        return True
    return instruction.op == "fusion" and any(
        _is_product(module, inner) for called in instruction.calls for inner in module[called]
    )


class Kernel(NamedTuple):
    flops: float
    size: int  # of a head
    moved: float = 0.0  # bytes, of what computes next to nothing
    read: float = 0.0  # bytes, of what reads far more than it writes


UNKNOWN = Kernel(0.0, SUPPORTED_HEAD_DIMS[-1])


def kernel(instruction: hlo.Instruction, computation: list[hlo.Instruction]) -> Kernel:
    """Read off its name and arrays.

    head_layout's kernels move their operands and results; decode_attention reads caches, here to their ends.

    Splash attention: queries [B, N, T, H], keys [B, K, S, H]: forward 2 products of T x S x H a head, fused
    backward (dkv) 5. A causal kernel has the queries' positions, s32[rows, 128], as an operand and skips
    blocks that are masked away. The vision towers' kernel gives [B, T, N x H], or gradients [3, B, T, N x H].
    """
    ours = _OURS.search(instruction.name)
    if ours:
        *_, rows, length, width = hlo.shapes(instruction.shape)[0][1]
        products = 5 if "backward" in instruction.name else 2
        return Kernel(products * 2.0 * rows * length**2 * width, int(ours[1]))
    by_name = {other.name: other.shape for other in computation}
    given = [by_name[name] for name in instruction.operands if name in by_name]
    if qk_norm_rope.NAME in instruction.name:
        return Kernel(0.0, SUPPORTED_HEAD_DIMS[-1], sum(map(hlo.nbytes, [*given, instruction.shape])))
    if decode_attention.NAME in instruction.name:
        return Kernel(0.0, SUPPORTED_HEAD_DIMS[-1], read=sum(map(hlo.nbytes, given)))
    if "splash" not in instruction.name:
        return UNKNOWN
    operands = [array for shape in given for array in hlo.shapes(shape)]
    heads = [shape for kind, shape in operands if kind in ("bf16", "f32") and len(shape) >= 3]
    heads = [shape for shape in heads if shape[-1] in SUPPORTED_HEAD_DIMS]
    if len(heads) < 2:
        return UNKNOWN
    (*lead, length, size), keys = heads[0], heads[1][-2]
    causal = any(kind == "s32" and len(shape) == 2 for kind, shape in operands)
    backward = "dkv" in instruction.name
    share = _causal_block_fraction(length, keys, backward) if causal else 1.0
    products = 5 if backward else 2
    return Kernel(products * share * 2.0 * math.prod(lead) * length * keys * size, size)


def _causal_block_fraction(queries: int, keys: int, backward: bool) -> float:
    """Share of a causal kernel's blocks in which a query sees a key; the queries are the last of the keys."""
    sizes = block_sizes(queries, keys, causal=True)
    q, kv = (sizes.block_q_dkv, sizes.block_kv_dkv) if backward else (sizes.block_q, sizes.block_kv)
    ends = range(q + keys - queries, keys + 1, q)
    return sum(-(-end // kv) for end in ends) / (len(ends) * (keys // kv))


def _kernel_rate(size: int, chip: Chip) -> float:
    """FLOP/s assumed: a head narrower than the matrix unit leaves the rest of it idle."""
    return chip.peak * chip.matmul_efficiency * KERNEL_EFFICIENCY * min(1.0, size / chip.mxu_size)
