"""From programs to findings: compiles each for its topology and reads what came out."""

import contextlib
import ctypes
import hashlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from tempo_jax.plan import abstract, cost, hlo, memory, programs, topology
from tempo_jax.plan.chips import Chip
from tempo_jax.plan.topology import Topology
from tempo_jax.runtime.placement import Placement


class ProgramReport(NamedTuple):
    """Of one program on one topology; `cost` and `memory` are None where the compiler refuses it."""

    name: str
    chip: Chip
    devices: int
    flops: float  # analytic, on all devices
    tokens: int
    runs: float
    min_hbm_bytes: float
    resident_bytes: float  # in HBM meanwhile: weights that the program does not read
    compile_seconds: float
    memory: memory.Memory | None
    cost: cost.Cost | None
    oom: memory.Refusal | None

    @property
    def seconds(self) -> float:
        """As the compiler estimates, and no less than reading `floor_bytes` takes, which its estimates leave
        out where weights are fetched beside the computation."""
        reading = self.min_hbm_bytes / self.chip.hbm_bandwidth
        return max(self.cost.seconds, reading) if self.cost else float("nan")

    @property
    def hbm_bytes(self) -> float:
        """What a chip holds at once, at most."""
        return self.memory.peak + self.resident_bytes if self.memory else float("nan")

    @property
    def mfu(self) -> float:
        """Share of the bfloat16 peak that model FLOPs reach in the predicted time."""
        return self.flops / (self.seconds * self.devices * self.chip.peak)

    @property
    def roofline_seconds(self) -> float:
        """No program is faster: its FLOPs at the compiler's best matmul, and what it must read from HBM."""
        compute = self.flops / (self.devices * self.chip.peak * self.chip.matmul_efficiency)
        return max(compute, self.min_hbm_bytes / self.chip.hbm_bandwidth)

    @property
    def bound(self) -> str:
        """What most of the time is: communication in the open, matrix products and kernels, or the rest,
        which moves data through HBM."""
        parts = {
            "ICI": self.cost.exposed_seconds,
            "compute": self.cost.matmul_seconds + self.cost.kernel_seconds,
            "HBM": self.cost.other_seconds,
        }
        if self.min_hbm_bytes and self.min_hbm_bytes / self.chip.hbm_bandwidth > self.seconds / 2:
            return "HBM"
        return max(parts, key=parts.get)


class Plan(NamedTuple):
    topology: Topology
    mesh: dict[str, int]
    training: bool
    reports: tuple[ProgramReport, ...]

    @property
    def fits(self) -> bool:
        return all(finding.oom is None for finding in self.findings)

    @property
    def seconds(self) -> float:
        """Of a training step, or of an hour-long video and a question."""
        return sum(finding.seconds * finding.runs for finding in self.findings)


def plan(
    config: ConfigDict,
    where: Topology,
    dump: Callable[[str, str], None] | None = None,
    say: Callable[[str], None] | None = None,
    known: dict[str, ProgramReport] | None = None,
) -> Plan:
    """Compiles every program of the config. TempoError without libtpu and for what cannot be planned.

    dump: called with (program's name, optimised HLO). say: called with lines of progress. known: what earlier
    plans with the same dictionary found, so that no program is compiled twice.
    """
    known = {} if known is None else known
    devices = topology.devices(where)
    mesh, found = programs.make_programs(config, devices)
    findings = []
    with Placement(mesh, exact=config.dtype == "float32")():
        for program in found:
            if say:
                say(f"{where}: compiling {program.name} ...")
            lowered = program.lower()
            key = hashlib.sha256(f"{where}\n{lowered.as_text()}".encode()).hexdigest()
            if key not in known:
                known[key] = compile_program(program, mesh, where.chip, dump, lowered)
                _malloc_trim()
            findings.append(known[key]._replace(name=program.name, runs=program.runs))
            if say:
                say(f"{where}: {program.name} took {findings[-1].compile_seconds:.0f} s to compile")
    return Plan(where, dict(mesh.shape), "ask" not in config, tuple(findings))


def compile_program(
    program: abstract.Program, mesh, chip: Chip, dump: Any = None, lowered: Any = None
) -> ProgramReport:
    """One program compiled, inside its mesh. lowered: where it already is."""
    started, refusal, costs, needs = time.perf_counter(), None, None, None
    beside = program.resident_bytes
    try:
        compiled = (lowered or program.lower()).compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = memory.parse_out_of_memory(error)
        if refusal is None:
            raise
    seconds = time.perf_counter() - started
    if refusal is None:
        text = compiled.as_text()
        if dump:
            dump(program.name, text)
        module = hlo.parse(text)
        costs = cost.estimate_cost(module, mesh, chip, program.label_fraction)
        needs = memory.estimate_memory(compiled, module, program.args)
        beside += needs.idle
        refusal = memory.check_capacity(needs.peak, beside, chip.hbm)
    return ProgramReport(
        program.name, chip, mesh.size, program.flops, program.tokens, program.runs, program.min_hbm_bytes,
        beside, seconds, needs, costs, refusal,
    )  # fmt: skip


def _malloc_trim() -> None:
    """Hands the system what a compilation freed: glibc keeps it, and a dozen of them would fill a host."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
