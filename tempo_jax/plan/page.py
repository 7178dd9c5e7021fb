"""docs/plans.md: every plan that a user of Tempo-6B or XComp-2B may ask for, made anew by one command.

    python -m tempo_jax.plan.page [NAME ...]        make plans

compiles the named rows of PLANS (default: those not yet in docs/plans.json, or of earlier programs), keeps
what it found in docs/plans.json with command, date and versions, and writes the page from that. Rows nobody
has run say so.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tempo_jax.plan import config_files, topology
from tempo_jax.plan.chips import GIB
from tempo_jax.plan.lessons import LESSONS
from tempo_jax.plan.rows import GROWTH, PLANS, Row
from tempo_jax.utils import command_line

# Of the programs that rows are made of: one more whenever a change moves their numbers by more than a little.
# Rows of an earlier generation are marked.
GENERATION = 3
DOCS = Path(__file__).resolve().parents[2] / "docs"


INTRO = """\
# Plans: what Tempo-6B and XComp-2B take on TPU slices

Made by `make plans` (`python -m tempo_jax.plan.page`); nothing here was measured on a TPU. Each row is a
real compilation by libtpu for that slice, on a CPU host, of the very programs that training and the engine
jit. Rows without numbers have not been run; the command in the last table makes each.

How the numbers come about:

* **HBM**: what a chip holds at once, at most, as the compiler says, and for asking the weights that lie there
  beside it, as a share of what the compiler may use.
* **seconds**: XLA:TPU's own cycle estimate of every fusion, times the trip counts of the loops around it,
  over the clock; plus Pallas kernels at {efficiency:.0%} of the compiler's best matmul, an assumption, and
  those that only move arrays at {moving:.0%} of the HBM bandwidth, and the one that reads caches at
  {reading:.0%}, as XLA expects of its own, and {launch:,} cycles for each, its smallest fusion's; plus
  communication that is synchronous or longer than all computation together. Collectives: bytes through a
  chip over both directions of the torus axes they span, and {hop:g} us for every chip on the way, an
  assumption. Never less than reading weights and caches from HBM takes.
* **MFU**: model FLOPs (matrix products, causal scores halved, nothing for rematerialisation) over seconds,
  chips and the bfloat16 peak. Of that peak the compiler expects of its own best matmul
  {ceilings}.
* One in eight of the LLM's positions is taken to have a label; frozen weights are bfloat16. Two slices take
  twice the rows a step.
* Not counted: input pipelines, checkpoints, decoding of video files, the host. Others who train on
  recent TPUs publish 38 to 46% of MFU as measured: expect a run to be slower than its plan.

What keeps v6e-64 below 35%, here stage 3: matrix products, 1.49 s with what is computed again, run at 70% of
the peak at best; attention is costed at a quarter of that, 1.13 s with kernels that move, as a head of 128
fills half of its matrix unit and kernels are taken to reach half of the rest; other fusions take 0.65 s. In
the time of products alone MFU would be 62%. A kernel's rate is the first thing to measure on a chip.

With remat=dots stage 3 took 117 of 96 GiB on v5p-64 (fsdp 64, an earlier version). Rows are held to their
chips between layers (`models/layers.py`), and no chip gathers the activations of others
(`tests/test_plan_tpu.py`).
"""

EARLIER = """\
Rows marked ¹ are of earlier programs, which were slower; `make plans` compiles them anew.
"""


def main(names: list[str]) -> int:
    """Runs rows one after the other and rewrites the page after each."""
    topology.prepare()
    found, known = read(), {}
    unknown = [name for name in names if name not in PLANS]
    if unknown:
        command_line.say(f"plans: there is no row {unknown[0]!r}: use one of {', '.join(PLANS)}")
        return 2
    for name in names or [name for name in PLANS if name not in found or not _recent(found[name])]:
        command_line.say(f"{name}: {PLANS[name].command}")
        found[name] = _run(PLANS[name], known)
        (DOCS / "plans.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (DOCS / "plans.md").write_text(page(found), encoding="utf-8")
    (DOCS / "plans.md").write_text(page(found), encoding="utf-8")
    return 0


def read() -> dict[str, Any]:
    """What has been found so far, by row."""
    path = DOCS / "plans.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _run(row: Row, known: dict) -> dict[str, Any]:
    import importlib.metadata

    from tempo_jax.plan import compile, report

    config = config_files.read_config(str(DOCS.parent / "configs" / f"{row.config}.py"), list(row.changes))
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
    """The Markdown of what was found."""
    from tempo_jax.plan.chips import (
        CACHE_READ_BANDWIDTH_FRACTION,
        CHIPS,
        COPY_BANDWIDTH_FRACTION,
        KERNEL_EFFICIENCY,
        LAUNCH_CYCLES,
    )
    from tempo_jax.plan.collectives import HOP_LATENCY_SECONDS

    ceilings = ", ".join(f"{chip.matmul_efficiency:.0%} on {name}" for name, chip in CHIPS.items())
    assumed = {
        "efficiency": KERNEL_EFFICIENCY,
        "moving": COPY_BANDWIDTH_FRACTION,
        "reading": CACHE_READ_BANDWIDTH_FRACTION,
        "launch": LAUNCH_CYCLES,
        "hop": HOP_LATENCY_SECONDS * 1e6,
    }
    parts = [INTRO.format(ceilings=ceilings, **assumed)]
    if not all(map(_recent, found.values())):
        parts += [EARLIER]
    training, asking, xcomp = (
        [name for name in PLANS if name.startswith(kind)] for kind in ("stage", "ask ", "xcomp ")
    )
    for lesson in LESSONS:
        parts += [f"## What compiling taught: {lesson.what}\n", f"| change | {' | '.join(lesson.columns)} |"]
        parts += [f"|{' --- |' * (1 + len(lesson.columns))}"]
        parts += [f"| {' | '.join(row)} |" for row in lesson.rows]
        parts += [""]
    parts += ["## Training: a step\n", *_table(TRAINING, training, found)]
    parts += ["\n## Asking about an hour of video, 1024 frames, 8192 visual tokens\n"]
    parts += _table(ASKING, asking, found)
    parts += [f"\n{GROWING}"]
    for what, names in GROWTH.items():
        parts += [f"\n### More {what}\n", *_growth(what, names, found)]
    parts += ["\n## XComp: asking about 1024 frames, 8192 visual tokens after two rounds of scoring\n"]
    parts += _table(ASKING, [name for name in xcomp if "ask" in name], found)
    parts += ["\n## XComp: a step of supervised compression tuning, 32 videos of 1024 frames\n"]
    parts += _table(TRAINING, [name for name in xcomp if "ask" not in name], found)
    parts += ["\n## Where the time goes\n", *_details(found)]
    parts += ["\n## Commands\n", "| plan | command | run |", "| --- | --- | --- |", *_commands(found)]
    return "\n".join(parts) + "\n"


TRAINING = ("plan", "mesh", "HBM", "step", "MFU", "tokens/s/chip", "bound")
ASKING = ("plan", "mesh", "HBM", "video and question", "decode step", "over its floor", "bound of decoding")


def _table(head: tuple[str, ...], names: list[str], found: dict) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for name in names:
        cells = _cells(found[name]) if name in found else ("not run",)
        cells = (*cells, *[""] * (len(head) - 1 - len(cells)))
        mark = "" if name not in found or _recent(found[name]) else " ¹"
        yield f"| {name}{mark} | {' | '.join(cells)} |"


def _recent(plan: dict[str, Any]) -> bool:
    """Whether it was made of the programs as they are now."""
    return plan.get("generation") == GENERATION


def _cells(plan: dict[str, Any]) -> tuple[str, ...]:
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1) or "one chip"
    if not plan["fits"]:
        refused = next(program for program in plan["programs"] if not program["fits"])
        return mesh, f"{refused['name']} {refused['refusal']}"
    fullest = max(p["hbm_bytes"] / p["hbm_available_bytes"] for p in plan["programs"])
    usage, seconds, last = f"{fullest:.0%}", f"{plan['seconds']:.2f} s", plan["programs"][-1]
    if last["name"] != "decode step":
        rate = f"{last['tokens_per_second_per_chip']:,.0f}"
        return mesh, usage, seconds, f"{last['mfu']:.1%}", rate, last["bound"]
    over = f"{last['seconds'] / last['roofline_seconds']:.2f} x"
    return mesh, usage, seconds, f"{last['seconds'] * 1e3:.2f} ms", over, last["bound"]


GROWING = """\
Seeing and compressing go with chips and frames alike; prefill and writing are the LLM's, which at most 8
chips share (it has 8 key/value heads), and go with the budget. Frames are capped at 1024 unless asked for
otherwise, so longer videos cost no more."""

# A part of the time to an answer -> the programs that it is.
PARTS = {
    "looking": ("vision chunk",),
    "compressing": ("compressor prefix", "compressor question"),
    "prefill": ("prefill",),
    "64 tokens": ("decode step",),
}


def _growth(what: str, names: dict[int, str], found: dict) -> Iterator[str]:
    yield f"| {what} | {' | '.join(PARTS)} | all | times the first row | {what} times |"
    yield f"|{' --- |' * (len(PARTS) + 4)}"
    first = None
    for size, name in names.items():
        if name not in found or not found[name]["fits"]:
            yield f"| {size} | not run |{' |' * (len(PARTS) + 2)}"
            continue
        plan = found[name]
        first = first or (size, plan["seconds"])
        took = [
            sum(p["seconds"] * p["runs"] for p in plan["programs"] if p["name"] in programs)
            for programs in PARTS.values()
        ]
        cells = " | ".join(f"{seconds:.2f} s" for seconds in (*took, plan["seconds"]))
        yield f"| {size} | {cells} | {plan['seconds'] / first[1]:.2f} | {size / first[0]:g} |"


def _details(found: dict) -> Iterator[str]:
    yield "| plan | program | HBM | matrix products | other fusions | kernels (assumed) | ICI, open | floor |"
    yield f"|{' --- |' * 8}"
    for name in (name for name in PLANS if name.startswith(("ask ", "stage", "xcomp "))):
        for p in found.get(name, {"programs": ()})["programs"]:
            if p["fits"]:
                times = (
                    "matmul_seconds",
                    "other_seconds",
                    "kernel_seconds",
                    "exposed_seconds",
                    "roofline_seconds",
                )
                cells = " | ".join(f"{p[field] * 1e3 * p['runs']:,.1f} ms" for field in times)
                yield f"| {name} | {p['name']} x {p['runs']:g} | {p['hbm_bytes'] / GIB:.1f} GiB | {cells} |"


def _commands(found: dict) -> Iterator[str]:
    for name, row in PLANS.items():
        run = found.get(name)
        when = "not run"
        if run:
            when = f"{run['date']}, " + ", ".join(f"{k} {v}" for k, v in run["versions"].items())
        yield f"| {name} | `{run['command'] if run else row.command}` | {when} |"


if __name__ == "__main__":
    status = command_line.run("plans", lambda: main(sys.argv[1:]))
    sys.stdout.flush()
    os._exit(status)  # libtpu's threads would otherwise be waited for
