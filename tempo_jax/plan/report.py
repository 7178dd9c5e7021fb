"""A plan as text for people and as JSON for scripts."""

from collections import defaultdict
from typing import Any

from tempo_jax.plan.chips import GIB
from tempo_jax.plan.compile import Plan, ProgramReport

MAX_SHOWN = 6  # of the longest times; JSON has them all
CROWDED_FRACTION = 0.9  # of HBM: above it a program fits with no room for what the runtime takes


def to_text(plan: Plan) -> str:
    """The whole plan, a block per program."""
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    head = f"{plan.topology}: {plan.topology.chips} chips, mesh {mesh}"
    return "\n\n".join([head, *map(_block, plan.reports), _total(plan)])


def _block(found: ProgramReport) -> str:
    if found.oom:
        return f"{found.name}\n  HBM        {found.oom}"
    memory, costs = found.memory, found.cost
    usage = found.hbm_bytes / found.chip.hbm
    crowded = f", above {CROWDED_FRACTION:.0%}: no room to spare" if usage > CROWDED_FRACTION else ""
    lines = [
        found.name,
        f"  HBM        {found.hbm_bytes / GIB:.2f} of {found.chip.hbm / GIB:.2f} GiB ({usage:.0%}{crowded}): "
        f"arguments {memory.arguments / GIB:.2f}, temporary {memory.temporary / GIB:.2f}, weights of other "
        f"programs {found.resident_bytes / GIB:.2f}",
        *(f"             {b.bytes / GIB:6.2f} GiB {b.shape} {b.what}" for b in memory.biggest),
        f"  FLOPs      {found.flops / 1e12:,.3g} TFLOP of the model, {found.tokens:,} tokens",
        f"  time       {_time(found.seconds)}: matrix products {_time(costs.matmul_seconds)}, "
        f"other fusions {_time(costs.other_seconds)}, {costs.kernels} kernels {_time(costs.kernel_seconds)} "
        f"(assumed), communication in the open {_time(costs.exposed_seconds)}",
        *(f"             {_time(one.seconds)} {one.what}" for one in costs.longest[:MAX_SHOWN]),
        *(f"             {line}" for line in _traffic(found)),
        f"  bound      {found.bound}; no faster than {_time(found.roofline_seconds)} "
        f"({found.seconds / found.roofline_seconds:.2f} x that)",
        f"  predicted  MFU {found.mfu:.1%} (the compiler's best matmul: {found.chip.matmul_efficiency:.0%}), "
        f"{_per_chip(found):,.0f} tokens/s/chip, {found.runs:g} runs",
        f"             compiled in {found.compile_seconds:.0f} s",
    ]
    if costs.dynamic_loops:
        once = _time(costs.overhead_seconds)
        lines.append(f"  note       a turn of its loop; before and after it, once a call, {once}")
    return "\n".join(lines)


def _per_chip(found: ProgramReport) -> float:
    return found.tokens / found.seconds / (found.devices / found.chip.per_chip)


def _traffic(found: ProgramReport) -> list[str]:
    return [
        f"{row['kind']} over {' x '.join(row['axes']) or 'one chip'}: {row['bytes'] / GIB:.2f} GiB a chip, "
        f"{_time(row['seconds'])}{'' if row['hidden'] else ', in the open'}"
        for row in traffic(found)
    ]


def traffic(found: ProgramReport) -> list[dict[str, Any]]:
    """Collectives by kind, axes and whether computation may hide them, the longest first."""
    groups: dict[tuple, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for one in found.cost.collectives:
        total = groups[one.kind, one.axes, one.asynchronous]
        total[0] += one.bytes
        total[1] += one.seconds
    rows = [
        {"kind": kind, "axes": list(axes), "hidden": hidden, "bytes": size, "seconds": seconds}
        for (kind, axes, hidden), (size, seconds) in groups.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


def _total(plan: Plan) -> str:
    if not plan.fits:
        return "does not fit: take more chips, a smaller batch.pool, or remat=full"
    if plan.training:
        return f"step time {_time(plan.seconds)} (data input and checkpoints not counted)"
    return (
        f"an hour-long video and a question: {_time(plan.seconds)} on the chips (decoding the file, which "
        "runs beside it, is not counted)"
    )


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
        "programs": [_json(found) for found in plan.reports],
    }


def _json(found: ProgramReport) -> dict[str, Any]:
    common = {"name": found.name, "runs": found.runs, "flops": found.flops, "tokens": found.tokens}
    if found.oom:
        return common | {"fits": False, "refusal": str(found.oom)}
    costs, memory = found.cost, found.memory
    return common | {
        "fits": True,
        "hbm_bytes": found.hbm_bytes,
        "beside_bytes": found.resident_bytes,
        "hbm_available_bytes": found.chip.hbm,
        "biggest": [b._asdict() for b in memory.biggest],
        "seconds": found.seconds,
        "matmul_seconds": costs.matmul_seconds,
        "other_seconds": costs.other_seconds,
        "kernel_seconds": costs.kernel_seconds,
        "exposed_seconds": costs.exposed_seconds,
        "once_seconds": costs.overhead_seconds,
        "floor_seconds": found.roofline_seconds,
        "longest": [one._asdict() for one in costs.longest],
        "collectives": traffic(found),
        "bound": found.bound,
        "mfu": found.mfu,
        "tokens_per_second_per_chip": _per_chip(found),
        "compile_seconds": found.compile_seconds,
    }
