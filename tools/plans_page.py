"""Compiles the plans of Tempo-6B and XComp-2B and writes docs/results/plans.md.

    make plans                                      (python tools/plans_page.py [NAME ...])

Compiles the named rows of `plan_rows.PLANS` (default: rows that docs/results/plans.json lacks, or that were
made of earlier programs), stores each result with its command, date and versions, and rewrites the page and
its figure after each. Rows that were never compiled say so. `--page` only rewrites the page.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where this runs as a script

from tempo_jax.plan import calibration, collectives, topology
from tempo_jax.plan.programs import read_config
from tempo_jax.utils import command_line
from tools import svg
from tools.plan_rows import PLANS, SCALING, Row

# Of the programs that rows are made of: one more whenever a change moves their numbers by more than a little.
# Rows of an earlier generation are marked.
GENERATION = 3
DOCS = Path(__file__).resolve().parents[1] / "docs"
DATA = DOCS / "results" / "plans.json"
PAGE = DOCS / "results" / "plans.md"
FIGURE = DOCS / "images" / "plans_latency.svg"

# A stage of an answer's latency -> the programs it consists of.
STAGES = {
    "vision": ("vision chunk",),
    "compressor": ("compressor prefix", "compressor question"),
    "scoring": ("scoring chunk",),
    "prefill": ("prefill",),
    "decode (64 tokens)": ("decode step",),
}
TTFT = ("vision", "compressor", "scoring", "prefill")

INTRO = """\
# Plans

What Tempo-6B and XComp-2B require on TPU slices. **Modeled, not measured**: every row is a compilation by
libtpu for that slice on a CPU host, and nothing on this page was executed on a TPU. [Methods](#methods)
says how a number is made, and [hardware planning](../guides/hardware-planning.md) how to plan your own
configuration. [How far a plan may be off](#how-far-a-plan-may-be-off) compares predictions of other
training programs with their published step times.

Slices are given as generation, chips, shape and Google's name. Google's names count TensorCores on v4 and
v5p: a v5p-128 has 64 chips.
"""

EARLIER = """\
Rows marked ¹ are of earlier programs, which were slower; `make plans` compiles them anew.
"""

LATENCY_NOTE = """\
One question about one hour of video: 1024 frames, 8192 visual tokens, 64 new tokens. Latency is cold (the
video was not encoded before) and excludes decoding the file. TTFT: time to first token (vision, compressor,
prefill). TPOT: time per output token, batch 1. Roofline ratio: TPOT over the bound max(FLOPs / peak matmul
rate, bytes / HBM bandwidth).
"""

SCALING_NOTE = """\
v6e; the first row of each table is the reference of the ratios. Vision and compressor scale with chips and
frames; prefill and decode belong to the LLM, which at most 8 chips share (it has 8 key/value heads), and
scale with the budget.
"""

CALIBRATION_NOTE = """\
## How far a plan may be off

Training programs whose measured step times others have published, compiled for the same slices and read by
`tempo plan`'s reader. The programs are MaxText's own (tag tpu-recipes-v0.1.4, jax 0.6.1, its `train_compile`
with the published options), the compiler is that of the plans (libtpu 0.0.42.1). What was measured ran with
compilers of its day. A generation's **correction** is the geometric mean of published over predicted times,
and the lowest and the highest ratio are its spread: the column "calibrated" of [training](#training), and a
line of each plan, are the predicted time with all three.
"""

CALIBRATION_REMARKS = """
* **Which way.** Published times are {least:.0%} to {most:.0%} of the predictions. All but one are
  shorter: cycle estimates of XLA seem high for these large matmuls, and the rate that is assumed for
  attention is low. Small programs may err the other way, since launches, the host and input pipelines are not
  in a plan.
* **Training only.** No answering program with a published time was compared, so TTFT, TPOT and latency above
  are not calibrated, and neither are v4 and v7x. The spread of so few programs is no confidence interval, and
  what was compared are decoders of 8B and more on whole batches of 2048 to 8192 tokens.
* **Kernels keep their assumed rate.** A published time is one number for a whole step: it says what attention
  takes only if everything else is as estimated. Then attention on v6e takes 0.43 of its modeled time in
  Llama 3.1 8B, and 0.65 in 70B; fitted with a factor for matmuls and fusions beside it, its time becomes
  zero. No one rate fits both, except that the assumed one is too low. On v5e and v5p kernels are a tenth of
  the step or less, and a published time says little of them. A profile of the kernels on a TPU would settle
  it.
* **Where the reader disagreed with XLA.** Options for pipelined all-gathers make XLA peel the first layer off
  the loop, so `while.9` of Llama 3.1 8B counts from 1 to 32: its 31 iterations were read as 32. And jax 0.6
  names a forward attention kernel after the blocks of the backward kernel too
  (`splash_mha_fwd_…_dkv_…`), which was read as a backward kernel, 2.5 times the work. Both are corrected.
* **All-reduces.** Where only fsdp shards the weights, the compiler sums gradients by whole all-reduces, of
  which each chip keeps a slice (`all-reduce.89` of Llama 3.1 70B, which `convert_bitcast_fusion.16` slices),
  and waits for them except where SparseCores run them (Llama 3.1 8B). Exposed communication is all of that; a
  compiler that scattered the sums, as that of a published run may have, would halve it.
* **Tensor parallelism** is predicted worst. XLA cuts the matmuls of the 128B model and of the 32B model on
  v5p into slices (collective matmul; on v5p in loops of 8 iterations such as `while.66`), which it estimates
  far below the rate of whole matmuls: at 114 of 197 TFLOP/s in the 128B model, more time than the whole step
  took. Our training programs have collective matmul turned off.
* **Transfers to the host.** Llama 3.1 8B and 70B offload 45 and 97 GB of activations a step, there and back:
  1.4 and 3.0 s at 32 GB/s, all of it behind computation by the model.
* **Not the same.** The models named by their size alone were measured in 2023 with an attention kernel that
  jax has since replaced; here it is 3 to 9 % of their predicted time. If their published TFLOP/s
  counted attention the other way (whole or causal), their times would differ by 2 to 3 %. The Llama 2 70B
  time is of "512 chips", taken to be a v5p-512 (256 chips).
* **Our own decoder.** The shape of Llama 3.1 8B through our training step (task `llm`, 3 sequences of 8192
  per chip, fsdp 16 on v6e:4x4, remat=attention, collective matmul off) was predicted at 4.32 s on
  2026-11-30, where MaxText's program is predicted at 4.45 s.
"""

METHODS = """\
## Methods

* **Programs.** The same jitted functions that training and inference run, compiled ahead of time by libtpu.
* **Peak HBM.** The compiler's peak per chip, for answers plus the resident weights, and its share of what
  the compiler may use.
* **Time.** XLA:TPU's cycle estimate of every fusion, times the trip counts of the loops around it, over the
  clock. Pallas kernels carry no estimate and are modeled: matmul kernels at {efficiency:.0%} of the
  compiler's best matmul, kernels that move data at {moving:.0%} of HBM bandwidth, the decode kernel at
  {reading:.0%}, and at least {launch:,} cycles each.
* **Communication.** Bytes through a chip over both directions of the torus axes they span, plus {hop:g} us
  per hop (assumed). Exposed communication is what is synchronous, or longer than all computation together.
* **Roofline.** No time is below reading weights and caches from HBM, or FLOPs at the compiler's best matmul
  rate, which is a share of the bfloat16 peak: {ceilings}.
* **MFU.** Model FLOPs (matmuls, causal attention halved, recomputation excluded) over time, chips and the
  bfloat16 peak.
* **LLM tokens/s/chip.** Positions of the LLM's sequences, padding included. (The trainer's log leaves
  padding out.)
* **Assumptions.** One in eight LLM positions has a label; frozen weights are bfloat16; two slices train
  twice the rows per step.
* **Excluded.** Input pipelines, checkpoints, decoding of video files, the host.
"""


def main(arguments: list[str]) -> int:
    """Compiles rows one after the other and rewrites the page after each.

    Args:
      arguments: Names of rows, or `--page` alone.

    Returns:
      An exit status: 2 for an unknown row.
    """
    found, known = read(), {}
    if arguments == ["--page"]:
        write(found)
        return 0
    topology.prepare()
    unknown = [name for name in arguments if name not in PLANS]
    if unknown:
        command_line.say(
            f"plans: There is no row {unknown[0]!r}. The names are the keys of docs/results/plans.json."
        )
        return 2
    stale = [name for name in PLANS if name not in found or not _recent(found[name])]
    for name in arguments or stale:
        command_line.say(f"{name}: {PLANS[name].command}")
        found[name] = _compile(PLANS[name], known)
        DATA.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        write(found)
    write(found)
    return 0


def read() -> dict[str, Any]:
    """Reads what was compiled so far, by row."""
    return json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}


def write(found: dict[str, Any]) -> None:
    """Writes the page and its figure."""
    PAGE.write_text(page(found), encoding="utf-8")
    FIGURE.write_text(figure(found), encoding="utf-8")


def _compile(row: Row, known: dict) -> dict[str, Any]:
    import importlib.metadata

    from tempo_jax.plan import compile, report

    config = read_config(str(DOCS.parent / "configs" / f"{row.config}.py"), list(row.changes))
    plan = compile.plan(config, topology.parse(row.topology, row.slices), log=command_line.say, cache=known)
    print(report.to_text(plan), flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    return report.to_json(plan) | {
        "command": row.command,
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions,
        "generation": GENERATION,
    }


def page(found: dict[str, Any]) -> str:
    """Renders the Markdown: results first, methods once, commands last."""
    parts = [INTRO]
    if not all(map(_recent, found.values())):
        parts += [EARLIER]
    parts += ["## Training\n", *_table(TRAIN_COLUMNS, _rows("train", "tempo"), found)]
    parts += ["\n## Answering\n", LATENCY_NOTE, *_table(ANSWER_COLUMNS, _whole_answers("tempo"), found)]
    parts += ["\n## Scaling\n", SCALING_NOTE, f"![Latency by stage](../images/{FIGURE.name})"]
    for quantity, names in SCALING.items():
        parts += [f"\n### By {quantity}\n", *_scaling(quantity, names, found)]
    parts += [
        "\n## XComp\n",
        "An answer about 1024 frames with 8192 visual tokens after two rounds of scoring:\n",
    ]
    parts += _table(ANSWER_COLUMNS, _whole_answers("xcomp"), found)
    parts += ["\nA step of supervised compression tuning, 32 videos of 1024 frames:\n"]
    parts += _table(TRAIN_COLUMNS, _rows("train", "xcomp"), found)
    parts += ["\n## Where the time goes\n", *_details(found), ""]
    parts += [CALIBRATION_NOTE, *_comparisons(), "", *_corrections(), _calibration_remarks(), _methods()]
    parts += ["## Commands\n", "| slice | workload | command | compiled |", "| --- | --- | --- | --- |"]
    parts += _commands(found)
    return "\n".join(parts) + "\n"


def _calibration_remarks() -> str:
    ratios = [comparison.ratio for comparison in calibration.COMPARISONS]
    return CALIBRATION_REMARKS.format(least=min(ratios), most=max(ratios))


def _methods() -> str:
    rates = ", ".join(f"{chip.matmul_efficiency:.0%} on {name}" for name, chip in topology.CHIPS.items())
    return METHODS.format(
        efficiency=topology.KERNEL_EFFICIENCY,
        moving=topology.COPY_BANDWIDTH_FRACTION,
        reading=topology.CACHE_READ_BANDWIDTH_FRACTION,
        launch=topology.LAUNCH_CYCLES,
        hop=collectives.HOP_LATENCY_SECONDS * 1e6,
        ceilings=rates,
    )


def _rows(kind: str, system: str) -> list[Row]:
    return [row for row in PLANS.values() if (row.kind, row.system) == (kind, system)]


def _whole_answers(system: str) -> list[Row]:
    """Answers that are no part of a sweep over frames or budgets."""
    swept = {name for quantity in ("frames", "visual tokens") for name in SCALING[quantity].values()}
    sliced = set(SCALING["chips"].values())
    return [row for row in _rows("answer", system) if row.name not in swept or row.name in sliced]


TRAIN_COLUMNS = (
    "slice", "workload", "mesh", "peak HBM", "step time", "calibrated", "MFU", "LLM tokens/s/chip",
    "bottleneck",
)  # fmt: skip
ANSWER_COLUMNS = (
    "slice", "workload", "mesh", "peak HBM", "TTFT", "latency", "TPOT", "roofline ratio", "decode bottleneck",
)  # fmt: skip


def _table(columns: tuple[str, ...], rows: list[Row], found: dict) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in rows:
        plan = found.get(row.name)
        cells = ("not compiled",) if plan is None else _cells(row, plan)
        cells = (*cells, *[""] * (len(columns) - 2 - len(cells)))
        mark = "" if plan is None or _recent(plan) else " ¹"
        yield f"| {row.slice_name}{mark} | {row.workload} | {' | '.join(cells)} |"


def _recent(plan: dict[str, Any]) -> bool:
    """Whether the plan was made of the programs as they are now."""
    return plan.get("generation") == GENERATION


def _cells(row: Row, plan: dict[str, Any]) -> tuple[str, ...]:
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1) or "one chip"
    if not plan["fits"]:
        refused = next(program for program in plan["programs"] if not program["fits"])
        return mesh, f"{refused['name']} {refused['refusal']}"
    fullest = max(plan["programs"], key=lambda program: program["hbm_bytes"] / program["hbm_available_bytes"])
    share = fullest["hbm_bytes"] / fullest["hbm_available_bytes"]
    usage = f"{fullest['hbm_bytes'] / topology.GIB:.1f} GiB, {share:.0%}"
    seconds, last = plan["seconds"], plan["programs"][-1]
    if row.kind == "train":
        rate = f"{last['tokens_per_second_per_chip']:,.0f}"
        calibrated = _calibrated(row, seconds)
        return mesh, usage, f"{seconds:.2f} s", calibrated, f"{last['mfu']:.1%}", rate, last["bound"]
    first = sum(_stages(plan)[stage] for stage in TTFT)
    ratio = f"{last['seconds'] / last['roofline_seconds']:.2f} x"
    return (
        mesh,
        usage,
        f"{first:.2f} s",
        f"{seconds:.2f} s",
        f"{last['seconds'] * 1e3:.2f} ms",
        ratio,
        last["bound"],
    )


def _calibrated(row: Row, seconds: float) -> str:
    """The step time with the generation's correction, and its spread."""
    found = calibration.correction(row.topology.partition(":")[0])
    if found is None:
        return "not calibrated"
    if found.programs == 1:
        return f"{seconds * found.ratio:.2f} s (one program)"
    lowest, highest = seconds * found.lowest, seconds * found.highest
    return f"{seconds * found.ratio:.2f} s ({lowest:.2f} to {highest:.2f})"


def _comparisons() -> Iterator[str]:
    columns = (
        "program", "slice", "published step", "predicted step", "matmuls", "non-matmul fusions",
        "Pallas kernels", "exposed ICI", "published / predicted", "source",
    )  # fmt: skip
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for one in calibration.COMPARISONS:
        parts = one.matmul_seconds, one.other_seconds, one.kernel_seconds, one.exposed_seconds
        seconds = " | ".join(
            f"{value:.2f} s" for value in (one.published_seconds, one.predicted_seconds, *parts)
        )
        source = f"[{one.published}, {one.date}]({one.source})"
        yield f"| {one.program} | {one.topology} | {seconds} | {one.ratio:.2f} | {source} |"


def _corrections() -> Iterator[str]:
    yield "| generation | correction of a training step | lowest | highest | programs |"
    yield "| --- | --- | --- | --- | --- |"
    for generation in topology.CHIPS:
        found = calibration.correction(generation)
        if found is None:
            yield f"| {generation} | none: no program was compared | | | 0 |"
        else:
            ratios = " | ".join(f"{x:.2f}" for x in (found.ratio, found.lowest, found.highest))
            yield f"| {generation} | {ratios} | {found.programs} |"


def _stages(plan: dict[str, Any]) -> dict[str, float]:
    """Seconds of each stage of an answer."""
    return {
        stage: sum(p["seconds"] * p["runs"] for p in plan["programs"] if p["name"] in programs)
        for stage, programs in STAGES.items()
    }


def _scaling(quantity: str, names: dict[int, str], found: dict) -> Iterator[str]:
    stages = [stage for stage in STAGES if stage != "scoring"]
    yield f"| {quantity} | {' | '.join(stages)} | total | latency ratio | size ratio |"
    yield f"|{' --- |' * (len(stages) + 4)}"
    first = None
    for size, name in names.items():
        if name not in found or not found[name]["fits"]:
            yield f"| {size} | not compiled |{' |' * (len(stages) + 2)}"
            continue
        plan = found[name]
        first = first or (size, plan["seconds"])
        seconds = _stages(plan)
        cells = " | ".join(
            f"{value:.2f} s" for value in (*(seconds[stage] for stage in stages), plan["seconds"])
        )
        yield f"| {size} | {cells} | {plan['seconds'] / first[1]:.2f} | {size / first[0]:g} |"


def figure(found: dict[str, Any]) -> str:
    """Renders stacked bars of an answer's latency by stage."""
    stages = [stage for stage in STAGES if stage != "scoring"]
    bars = {}
    for quantity, names in SCALING.items():
        for size, name in names.items():
            if name in found and found[name]["fits"]:
                bars[f"{size} {quantity}"] = [_stages(found[name])[stage] for stage in stages]
    return svg.stacked_bars("Modeled latency of one answer on v6e, seconds", stages, bars)


def _details(found: dict) -> Iterator[str]:
    yield (
        "Milliseconds per training step or per answer, by kind of work. Matmuls include recomputation; "
        "non-matmul fusions are mostly bound by HBM; Pallas kernels are modeled. Per-program numbers are in "
        "`plans.json`.\n"
    )
    columns = (
        "slice",
        "workload",
        "matmul",
        "non-matmul fusions",
        "Pallas kernels",
        "exposed ICI",
        "roofline",
    )
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    fields = ("matmul_seconds", "other_seconds", "kernel_seconds", "exposed_seconds", "roofline_seconds")
    for row in PLANS.values():
        plan = found.get(row.name)
        if plan is None or not plan["fits"]:
            continue
        sums = [sum(p[field] * p["runs"] for p in plan["programs"]) * 1e3 for field in fields]
        system = "XComp, " if row.system == "xcomp" else ""
        cells = " | ".join(f"{value:,.0f} ms" for value in sums)
        yield f"| {row.slice_name} | {system}{row.workload} | {cells} |"


def _commands(found: dict) -> Iterator[str]:
    for row in PLANS.values():
        plan = found.get(row.name)
        when = "not compiled"
        if plan:
            when = f"{plan['date']}, " + ", ".join(
                f"{name} {value}" for name, value in plan["versions"].items()
            )
        yield f"| {row.slice_name} | {row.workload} | `{plan['command'] if plan else row.command}` | {when} |"


if __name__ == "__main__":
    status = command_line.run("plans", lambda: main(sys.argv[1:]))
    sys.stdout.flush()
    os._exit(status)  # libtpu's threads would otherwise be waited for
