"""Compiles each program of a config for a topology, and reports its memory and time."""

import contextlib
import ctypes
import hashlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from tempo_jax.plan import abstract, cost, hlo, memory, programs
from tempo_jax.plan import topology as topologies
from tempo_jax.plan.topology import Chip, Topology
from tempo_jax.runtime.placement import Placement


class ProgramReport(NamedTuple):
    """One program on one topology.

    Attributes:
      name: Name of the program.
      chip: The chip it is compiled for.
      devices: Number of devices.
      flops: Analytic model FLOPs of one run, on all devices.
      tokens: Tokens per run.
      runs: Runs per train step, or per hour-long video and question.
      min_hbm_bytes: Bytes that a chip has to read from HBM in any case.
      resident_bytes: Bytes in a chip's HBM meanwhile: weights that the program does not read.
      compile_seconds: Time that compilation took.
      memory: HBM that the program needs; None where the compiler ran out of it.
      cost: Time of one run; None where the compiler ran out of HBM.
      oom: How much HBM is missing, if it is.
    """

    name: str
    chip: Chip
    devices: int
    flops: float
    tokens: int
    runs: float
    min_hbm_bytes: float
    resident_bytes: float
    compile_seconds: float
    memory: memory.Memory | None
    cost: cost.Cost | None
    oom: memory.OutOfMemory | None

    @property
    def seconds(self) -> float:
        """Time of one run: the estimate, but at least the time to read `min_hbm_bytes`.

        The compiler's estimates leave that out where it prefetches weights during computation.
        """
        reading = self.min_hbm_bytes / self.chip.hbm_bandwidth
        return max(self.cost.seconds, reading) if self.cost else float("nan")

    @property
    def hbm_bytes(self) -> float:
        """Peak HBM of a chip."""
        return self.memory.peak + self.resident_bytes if self.memory else float("nan")

    @property
    def mfu(self) -> float:
        """Model FLOPs utilization: the fraction of the bfloat16 peak at the predicted time."""
        return self.flops / (self.seconds * self.devices * self.chip.peak)

    @property
    def roofline_seconds(self) -> float:
        """Lower bound: FLOPs at the compiler's best matmul, or `min_hbm_bytes` at the HBM bandwidth."""
        compute = self.flops / (self.devices * self.chip.peak * self.chip.matmul_efficiency)
        return max(compute, self.min_hbm_bytes / self.chip.hbm_bandwidth)

    @property
    def bound(self) -> str:
        """The bottleneck: exposed communication, matmuls and kernels, or the rest, which is HBM traffic."""
        parts = {
            "ICI": self.cost.exposed_seconds,
            "compute": self.cost.matmul_seconds + self.cost.kernel_seconds,
            "HBM": self.cost.other_seconds,
        }
        if self.min_hbm_bytes and self.min_hbm_bytes / self.chip.hbm_bandwidth > self.seconds / 2:
            return "HBM"
        return max(parts, key=parts.get)


class Plan(NamedTuple):
    """All programs of a config on one topology."""

    topology: Topology
    mesh: dict[str, int]
    training: bool
    reports: tuple[ProgramReport, ...]

    @property
    def fits(self) -> bool:
        return all(report.oom is None for report in self.reports)

    @property
    def seconds(self) -> float:
        """Time of a train step, or end-to-end latency of an hour-long video and a question."""
        return sum(report.seconds * report.runs for report in self.reports)


def plan(
    config: ConfigDict,
    topology: Topology,
    dump: Callable[[str, str], None] | None = None,
    log: Callable[[str], None] | None = None,
    cache: dict[str, ProgramReport] | None = None,
) -> Plan:
    """Compiles every program of the config.

    Args:
      config: A training config, or an inference config (with a section `ask`).
      topology: What to compile for.
      dump: Called with each program's name and optimized HLO.
      log: Called with lines of progress.
      cache: Reports by program; plans that share it compile no program twice.

    Raises:
      TempoError: libtpu is not installed, or the config cannot be planned.
    """
    cache = {} if cache is None else cache
    devices = topologies.devices(topology)
    mesh, config_programs = programs.make_programs(config, devices)
    reports = []
    with Placement(mesh, exact=config.dtype == "float32")():
        for program in config_programs:
            if log:
                log(f"{topology}: compiling {program.name} ...")
            lowered = program.lower()
            key = hashlib.sha256(f"{topology}\n{lowered.as_text()}".encode()).hexdigest()
            if key not in cache:
                cache[key] = compile_program(program, mesh, topology.chip, dump, lowered)
                _malloc_trim()
            reports.append(cache[key]._replace(name=program.name, runs=program.runs))
            if log:
                log(f"{topology}: {program.name} took {reports[-1].compile_seconds:.0f} s to compile")
    return Plan(topology, dict(mesh.shape), "ask" not in config, tuple(reports))


def compile_program(
    program: abstract.Program, mesh, chip: Chip, dump: Any = None, lowered: Any = None
) -> ProgramReport:
    """Compiles one program, inside its mesh. lowered: the program, where it is lowered already."""
    started, oom, program_cost, needed = time.perf_counter(), None, None, None
    resident_bytes = program.resident_bytes
    try:
        compiled = (lowered or program.lower()).compile()
    except jax.errors.JaxRuntimeError as error:
        oom = memory.parse_out_of_memory(error)
        if oom is None:
            raise
    compile_seconds = time.perf_counter() - started
    if oom is None:
        text = compiled.as_text()
        if dump:
            dump(program.name, text)
        module = hlo.parse(text)
        program_cost = cost.estimate_cost(module, mesh, chip, program.label_fraction)
        needed = memory.estimate_memory(compiled, module, program.args)
        resident_bytes += needed.unread
        oom = memory.check_capacity(needed.peak, resident_bytes, chip.hbm)
    return ProgramReport(
        name=program.name,
        chip=chip,
        devices=mesh.size,
        flops=program.flops,
        tokens=program.tokens,
        runs=program.runs,
        min_hbm_bytes=program.min_hbm_bytes,
        resident_bytes=resident_bytes,
        compile_seconds=compile_seconds,
        memory=needed,
        cost=program_cost,
        oom=oom,
    )


def _malloc_trim() -> None:
    """Returns freed memory to the operating system: glibc would keep that of every compilation."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
