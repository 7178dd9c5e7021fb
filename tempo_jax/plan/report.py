"""Prints a plan as text, and as JSON for scripts."""

from collections import defaultdict
from typing import Any

from tempo_jax.plan import calibration
from tempo_jax.plan.compile import Plan, ProgramReport
from tempo_jax.plan.topology import GIB

MAX_SHOWN = 6  # hotspots in the text; JSON has more
CROWDED_FRACTION = 0.9  # of HBM: above it there is little left for the runtime


def to_text(plan: Plan) -> str:
    """The whole plan, one block per program."""
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    head = f"{plan.topology}: {plan.topology.chips} chips, mesh {mesh}"
    return "\n\n".join([head, *map(_block, plan.reports), _summary(plan)])


def _block(report: ProgramReport) -> str:
    if report.oom:
        return f"{report.name}\n  HBM        {report.oom}"
    memory, cost = report.memory, report.cost
    fraction = report.hbm_bytes / report.chip.hbm
    crowded = ""
    if fraction > CROWDED_FRACTION:
        crowded = f", above {CROWDED_FRACTION:.0%}: little left for the runtime"
    lines = [
        report.name,
        f"  HBM        peak {report.hbm_bytes / GIB:.2f} of {report.chip.hbm / GIB:.2f} GiB "
        f"({fraction:.0%}{crowded}): arguments {memory.arguments / GIB:.2f}, temporary "
        f"{memory.temporary / GIB:.2f}, weights of other programs {report.resident_bytes / GIB:.2f}",
        *(f"             {b.bytes / GIB:6.2f} GiB {b.shape} {b.source}" for b in memory.biggest),
        f"  FLOPs      {report.flops / 1e12:,.3g} TFLOP of the model, {report.tokens:,} tokens",
        f"  time       {_time(report.seconds)}: matmuls {_time(cost.matmul_seconds)}, "
        f"non-matmul fusions {_time(cost.other_seconds)}, {cost.kernels} Pallas kernels "
        f"{_time(cost.kernel_seconds)} (modeled), exposed communication {_time(cost.exposed_seconds)}",
        *(f"             {_time(hotspot.seconds)} {hotspot.source}" for hotspot in cost.hotspots[:MAX_SHOWN]),
        *(f"             {line}" for line in _collective_lines(report)),
        f"  bottleneck {report.bound}; roofline {_time(report.roofline_seconds)} "
        f"(achieved/roofline {report.seconds / report.roofline_seconds:.2f}x)",
        f"  predicted  MFU {report.mfu:.1%} (the compiler's best matmul: "
        f"{report.chip.matmul_efficiency:.0%}), {_tokens_per_chip(report):,.0f} tokens/s/chip, "
        f"{report.runs:g} runs",
        f"             compiled in {report.compile_seconds:.0f} s",
    ]
    if cost.dynamic_loops:
        overhead = _time(cost.overhead_seconds)
        lines.append(f"  note       one iteration of its loop; one-time overhead per call {overhead}")
    return "\n".join(lines)


def _tokens_per_chip(report: ProgramReport) -> float:
    """Tokens per second and chip, with padding."""
    return report.tokens / report.seconds / (report.devices / report.chip.per_chip)


def _collective_lines(report: ProgramReport) -> list[str]:
    return [
        f"{row['kind']} over {' x '.join(row['axes']) or 'one chip'}: {row['bytes'] / GIB:.2f} GiB per chip, "
        f"{_time(row['seconds'])}{'' if row['hidden'] else ', exposed'}"
        for row in collective_rows(report)
    ]


def collective_rows(report: ProgramReport) -> list[dict[str, Any]]:
    """Collectives by kind, mesh axes and whether they may overlap with computation, the longest first."""
    groups: dict[tuple, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for collective in report.cost.collectives:
        total = groups[collective.kind, collective.axes, collective.asynchronous]
        total[0] += collective.bytes
        total[1] += collective.seconds
    rows = [
        {"kind": kind, "axes": list(axes), "hidden": asynchronous, "bytes": nbytes, "seconds": seconds}
        for (kind, axes, asynchronous), (nbytes, seconds) in groups.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


def _summary(plan: Plan) -> str:
    if not plan.fits:
        return "does not fit: take more chips, a smaller batch.segments, or remat=full"
    if plan.training:
        said = f"Step time {_time(plan.seconds)} (without data input and checkpoints)"
    else:
        said = (
            f"End-to-end latency of a video and a question: {_time(plan.seconds)} (excluding video decoding)"
        )
    return f"{said}\n{_calibrated_line(plan)}"


def _calibrated_line(plan: Plan) -> str:
    chip = plan.topology.chip.name
    if not plan.training:
        return "Not calibrated: every program with a published time that was compared is a training step"
    found = calibrated(plan)
    if found is None:
        return f"Not calibrated: no program with a published time on {chip} was compared"
    if found["programs"] == 1:
        return (
            f"Step time calibrated {_time(found['seconds'])} (ratio {found['ratio']:.2f}, of the published "
            f"time of one program on {chip} to its prediction)"
        )
    return (
        f"Step time calibrated {_time(found['seconds'])} ({_time(found['lowest_seconds'])} to "
        f"{_time(found['highest_seconds'])}: ratio {found['ratio']:.2f}, {found['lowest_ratio']:.2f} to "
        f"{found['highest_ratio']:.2f}, of published times of {found['programs']} programs on {chip} to "
        "their predictions)"
    )


def calibrated(plan: Plan) -> dict[str, float] | None:
    """The step time that published times of others suggest, with its spread.

    None for programs that answer, for a generation without a published time, and for what does not fit.
    """
    found = calibration.correction(plan.topology.chip.name)
    if found is None or not plan.training or not plan.fits:
        return None
    return {
        "seconds": plan.seconds * found.ratio,
        "lowest_seconds": plan.seconds * found.lowest,
        "highest_seconds": plan.seconds * found.highest,
        "ratio": found.ratio,
        "lowest_ratio": found.lowest,
        "highest_ratio": found.highest,
        "programs": found.programs,
    }


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def to_json(plan: Plan) -> dict[str, Any]:
    """Plain values; sizes in bytes, times in seconds."""
    return {
        "topology": str(plan.topology),
        "chips": plan.topology.chips,
        "mesh": plan.mesh,
        "fits": plan.fits,
        "seconds": plan.seconds if plan.fits else None,
        "calibrated": calibrated(plan),
        "programs": [_program_json(report) for report in plan.reports],
    }


def _program_json(report: ProgramReport) -> dict[str, Any]:
    common = {
        "name": report.name,
        "runs": report.runs,
        "flops": report.flops,
        "tokens": report.tokens,
    }
    if report.oom:
        return common | {"fits": False, "refusal": str(report.oom)}
    cost, memory = report.cost, report.memory
    return common | {
        "fits": True,
        "hbm_bytes": report.hbm_bytes,
        "resident_bytes": report.resident_bytes,
        "hbm_available_bytes": report.chip.hbm,
        "biggest": [{"bytes": b.bytes, "shape": b.shape, "what": b.source} for b in memory.biggest],
        "seconds": report.seconds,
        "matmul_seconds": cost.matmul_seconds,
        "other_seconds": cost.other_seconds,
        "kernel_seconds": cost.kernel_seconds,
        "exposed_seconds": cost.exposed_seconds,
        "overhead_seconds": cost.overhead_seconds,
        "roofline_seconds": report.roofline_seconds,
        "longest": [{"seconds": hotspot.seconds, "what": hotspot.source} for hotspot in cost.hotspots],
        "collectives": collective_rows(report),
        "bound": report.bound,
        "mfu": report.mfu,
        "tokens_per_second_per_chip": _tokens_per_chip(report),
        "compile_seconds": report.compile_seconds,
    }
