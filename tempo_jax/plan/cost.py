"""Estimated time of a compiled program: cycles of every instruction times how often it runs.

XLA:TPU writes its own estimate beside each fusion and each matmul. A loop's body is printed once, so its
cycles are multiplied by the loop's trip count. Two kinds of instruction have no estimate and are modeled
here: collectives (bytes over the torus) and Pallas kernels (FLOPs and bytes at assumed efficiencies).
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from tempo_jax.models.kernels import decode_attention, qk_norm_rope, splash, vision_attention
from tempo_jax.models.kernels.cost import CostFunction, KernelArray, KernelCost
from tempo_jax.plan import collectives, hlo
from tempo_jax.plan.collectives import Collective
from tempo_jax.plan.topology import (
    CACHE_READ_BANDWIDTH_FRACTION,
    COPY_BANDWIDTH_FRACTION,
    KERNEL_EFFICIENCY,
    LAUNCH_CYCLES,
    Chip,
)

_MATMULS = ("convolution", "dot")
MAX_HOTSPOTS = 12

# Part of a kernel's name in a compiled program -> its cost; the first match counts.
KERNELS: dict[str, CostFunction] = {
    vision_attention.NAME: vision_attention.cost,
    qk_norm_rope.NAME: qk_norm_rope.cost,
    decode_attention.NAME: decode_attention.cost,
    splash.NAME: splash.cost,
}
UNKNOWN_KERNEL = KernelCost(0.0, splash.SUPPORTED_HEAD_DIMS[-1])


class Hotspot(NamedTuple):
    """Total time of the instructions of one operation of our program."""

    seconds: float
    source: str  # hlo.Instruction.source, and the shape of one result


class Cost(NamedTuple):
    """Time of one run of a program on one chip, in seconds.

    If the program has loops of unknown length, it is the time of one iteration of them.

    Attributes:
      matmul_seconds: Fusions that contain matmuls.
      other_seconds: The other instructions that have an estimate.
      kernel_seconds: Pallas kernels, modeled.
      kernels: Number of Pallas kernels in the program's text.
      collectives: All collectives.
      dynamic_loops: Number of loops whose length is not a constant.
      overhead_seconds: Time of what runs once, outside dynamic loops.
      hotspots: The operations that take the most time, without collectives.
    """

    matmul_seconds: float
    other_seconds: float
    kernel_seconds: float
    kernels: int
    collectives: tuple[Collective, ...]
    dynamic_loops: int
    overhead_seconds: float = 0.0
    hotspots: tuple[Hotspot, ...] = ()

    @property
    def compute_seconds(self) -> float:
        return self.matmul_seconds + self.other_seconds + self.kernel_seconds

    @property
    def exposed_seconds(self) -> float:
        """Communication that does not overlap: synchronous collectives, and what exceeds all computation."""
        overlapped = sum(c.seconds for c in self.collectives if c.asynchronous)
        return sum(c.seconds for c in self.collectives if not c.asynchronous) + max(
            0.0, overlapped - self.compute_seconds
        )

    @property
    def seconds(self) -> float:
        return self.compute_seconds + self.exposed_seconds


@dataclasses.dataclass(frozen=True)
class _Context:
    """How the instructions of a computation run.

    Attributes:
      trips: How often they run.
      in_fusion: Whether they are part of a fusion, whose own estimate covers them.
      asynchronous: Whether they may overlap with other instructions.
      in_dynamic_loop: Whether they are in a loop of unknown length.
    """

    trips: float = 1.0
    in_fusion: bool = False
    asynchronous: bool = False
    in_dynamic_loop: bool = False

    def nested(self, *, trips: float = 1.0, **flags: bool) -> "_Context":
        """The context of a computation that is called `trips` times; flags only ever become true."""
        flags = {name: value or getattr(self, name) for name, value in flags.items()}
        return dataclasses.replace(self, trips=self.trips * trips, **flags)


class _Run(NamedTuple):
    """An instruction that runs."""

    instruction: hlo.Instruction
    computation: str
    context: _Context


class _Visitor:
    """Visits every instruction that runs, with how often it does.

    label_fraction: fraction of the runs of a conditional that take its expensive branch
      (losses.cross_entropy skips chunks without labels).
    """

    def __init__(self, module: hlo.Module, label_fraction: float):
        self.module, self.label_fraction = module, label_fraction

    def visit(self, computation: str, context: _Context = _Context()) -> Iterator[_Run]:
        for instruction in self.module[computation]:
            started = instruction.op.endswith("-start") or "async_collective" in instruction.rest
            yield _Run(instruction, computation, context.nested(asynchronous=started))
            if instruction.op == "while":
                yield from self._loop(instruction, computation, context)
            elif instruction.op == "conditional":
                yield from self._conditional(instruction, context)
            elif instruction.op in ("fusion", "custom-call"):
                for called in instruction.calls:
                    yield from self._fusion(called, context)
            elif instruction.op in ("call", "async-start", "call-start"):  # the last: on SparseCores
                asynchronous = instruction.op != "call"
                for called in instruction.calls:
                    yield from self.visit(called, context.nested(asynchronous=asynchronous))

    def _loop(self, instruction: hlo.Instruction, computation: str, context: _Context) -> Iterator[_Run]:
        trips = self.module.trips(instruction, computation)
        body = context.nested(trips=1 if trips is None else trips, in_dynamic_loop=trips is None)
        yield from self.visit(instruction.attribute("body"), body)

    def _conditional(self, instruction: hlo.Instruction, context: _Context) -> Iterator[_Run]:
        """The branch with the most cycles, in its fraction of the runs."""
        names = re.findall(r"%([\w.\-]+)", instruction.attribute("branch_computations") or "")
        names = names or [instruction.attribute(f"{branch}_computation") for branch in ("true", "false")]
        cycles = {
            name: sum(run.instruction.cycles * run.context.trips for run in self.visit(name))
            for name in names
        }
        if cycles:
            yield from self.visit(max(cycles, key=cycles.get), context.nested(trips=self.label_fraction))

    def _fusion(self, name: str, context: _Context) -> Iterator[_Run]:
        """What a fusion contains, for its collectives.

        A collective that is fused with the matmuls it overlaps with is printed in all of their fusions, from
        the one that starts it to the one that ends it; it is counted in the first. An all-reduce of which a
        chip keeps its shard moves half of the bytes.
        """
        instructions = self.module[name]
        starts = any('"AsyncCollectiveStart"' in instruction.rest for instruction in instructions)
        for run in self.visit(name, context.nested(in_fusion=True, asynchronous=starts)):
            instruction = run.instruction
            if collectives.kind_of(instruction) and "chain_id=" in instruction.rest and not starts:
                continue
            if instruction.op == "all-reduce" and name.startswith("all-reduce-scatter"):
                shard = instructions[-1].shape
                run = run._replace(
                    instruction=dataclasses.replace(instruction, op="reduce-scatter", shape=shard)
                )
            yield run


def estimate_cost(module: hlo.Module, mesh, chip: Chip, label_fraction: float = 1.0) -> Cost:
    """The cost of a compiled program.

    Args:
      module: The program.
      mesh: The mesh it was compiled for.
      chip: The chip it was compiled for.
      label_fraction: As `abstract.Program.label_fraction`.
    """
    runs = list(_Visitor(module, label_fraction).visit(module.entry))
    in_loops = [run for run in runs if run.context.in_dynamic_loop]
    if not in_loops:
        return _total(runs, module, mesh, chip)
    outside = _total([run for run in runs if not run.context.in_dynamic_loop], module, mesh, chip)
    loops = sum(run.instruction.op == "while" and module.trips(run.instruction) is None for run in runs)
    in_loops = _total(in_loops, module, mesh, chip)
    return in_loops._replace(dynamic_loops=loops, overhead_seconds=outside.seconds)


def _total(runs: list[_Run], module: hlo.Module, mesh, chip: Chip) -> Cost:
    matmul_seconds = other_seconds = kernel_seconds = 0.0
    kernels = 0
    found_collectives = []
    by_source: dict[str, float] = defaultdict(float)
    for run in runs:
        instruction, trips = run.instruction, run.context.trips
        if collectives.kind_of(instruction):
            found_collectives.append(
                collectives.estimate_collective(instruction, mesh, chip, trips, run.context.asynchronous)
            )
        elif transfer := collectives.estimate_host_transfer(instruction, chip, trips):
            found_collectives.append(transfer)
        elif instruction.op == "custom-call" and "tpu_custom_call" in instruction.rest:
            seconds = trips * _kernel_seconds(kernel_cost(instruction, module[run.computation]), chip)
            kernels += 1
            kernel_seconds += seconds
            by_source[_source(instruction)] += seconds
        if not run.context.in_fusion and instruction.cycles:
            seconds = chip.seconds(instruction.cycles) * trips
            by_source[_source(instruction)] += seconds
            if _contains_matmul(module, instruction):
                matmul_seconds += seconds
            else:
                other_seconds += seconds
    hotspots = sorted((Hotspot(seconds, source) for source, seconds in by_source.items()), reverse=True)
    return Cost(
        matmul_seconds,
        other_seconds,
        kernel_seconds,
        kernels,
        tuple(found_collectives),
        0,
        hotspots=tuple(hotspots[:MAX_HOTSPOTS]),
    )


def _source(instruction: hlo.Instruction) -> str:
    dtype, size = next(iter(hlo.shapes(instruction.shape)), ("", ()))
    return f"{instruction.source} {dtype}[{','.join(map(str, size))}]"


def _contains_matmul(module: hlo.Module, instruction: hlo.Instruction) -> bool:
    if instruction.op in _MATMULS:
        return True
    return instruction.op == "fusion" and any(
        _contains_matmul(module, inner) for called in instruction.calls for inner in module[called]
    )


def kernel_cost(instruction: hlo.Instruction, computation: list[hlo.Instruction]) -> KernelCost:
    """The cost of a Pallas kernel, by its name in KERNELS and its arrays; nothing for one that is unknown."""
    shapes = {other.name: other.shape for other in computation}
    operands = [array for name in instruction.operands if name in shapes for array in _arrays(shapes[name])]
    cost_fn = next((cost for name, cost in KERNELS.items() if name in instruction.name), None)
    cost = cost_fn and cost_fn(instruction.name, operands, _arrays(instruction.shape))
    return cost or UNKNOWN_KERNEL


def _arrays(shape: str) -> list[KernelArray]:
    return [KernelArray(dtype, size, hlo.array_bytes(dtype, size)) for dtype, size in hlo.shapes(shape)]


def _kernel_seconds(cost: KernelCost, chip: Chip) -> float:
    """Modeled time: a head narrower than the matrix unit leaves part of it idle."""
    flops_per_second = (
        chip.peak * chip.matmul_efficiency * KERNEL_EFFICIENCY * min(1.0, cost.head_dim / chip.mxu_size)
    )
    bytes_at_full_bandwidth = (
        cost.copied_bytes / COPY_BANDWIDTH_FRACTION + cost.cache_bytes / CACHE_READ_BANDWIDTH_FRACTION
    )
    return (
        cost.flops / flops_per_second
        + bytes_at_full_bandwidth / chip.hbm_bandwidth
        + chip.seconds(LAUNCH_CYCLES)
    )
