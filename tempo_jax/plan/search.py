"""Mesh shapes, rematerialisation and batch sizes of a config on one slice, compiled one after the other."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from tempo_jax.errors import TempoError
from tempo_jax.models.config import PRESETS
from tempo_jax.plan import compile, report
from tempo_jax.plan.topology import Topology
from tempo_jax.training.tasks import TASKS

TENSOR = (1, 2, 4, 8)  # sizes of the axis that splits heads
# The faster ones first; of vision tower, compressor and LLM where a task runs all three.
REMAT = ("dots", "attention", "full")
REMAT_OF_THREE = ("dots", "attention,attention,dots", "attention", "attention,full,attention", "full")
TILE = 16  # rows of bfloat16 that a TPU stores together
SHARDS = (1, 2)  # times the config's rows, micro-batches divided by as much


class Trial(NamedTuple):
    changes: dict[str, Any]  # fields of the config
    plan: compile.Plan | None
    problem: str = ""  # why there is no plan

    @property
    def works(self) -> bool:
        return self.plan is not None and self.plan.fits

    @property
    def mfu(self) -> float:
        return self.plan.findings[0].mfu if self.works else 0.0


def candidates(config: ConfigDict, where: Topology) -> Iterator[dict[str, Any]]:
    """Changes to try; the optimiser step's samples stay as many as they are.

    Of meshes: every tensor size that divides the key/value heads, the rest fsdp, several slices on data; and
    the same with so much of fsdp on data that every chip holds whole tiles of the weights.
    """
    for mesh in meshes(config, where):
        if "ask" in config:
            yield mesh
            continue
        names = REMAT_OF_THREE if TASKS[config.task].stacks == 3 else REMAT
        for remat, times in itertools.product(names, SHARDS):
            if config.batch.micro_batches % times == 0:
                yield mesh | {
                    "remat": remat,
                    "batch.shards": config.batch.shards * times,
                    "batch.micro_batches": config.batch.micro_batches // times,
                }


def meshes(config: ConfigDict, where: Topology) -> Iterator[dict[str, int]]:
    """Mesh shapes of all devices."""
    preset = PRESETS[config.model] if config.model else PRESETS["tempo-6b"]
    widths, heads = _widths(dataclasses.asdict(preset)), _heads(preset)
    for tensor in (n for n in TENSOR if where.devices % n == 0 and heads % n == 0):
        inner = where.devices // tensor // where.slices
        whole = next(n for n in range(inner, 0, -1) if inner % n == 0 and whole_tiles(widths, n))
        for fsdp in dict.fromkeys((whole, inner)):
            data = where.slices * inner // fsdp
            yield {"mesh.data": data, "mesh.fsdp": fsdp, "mesh.tensor": tensor}


def whole_tiles(widths: set[int], fsdp: int) -> bool:
    """Whether every chip's part of each width is a multiple of TILE rows, as XLA gathers in one go; other
    parts it writes into zeros and adds up over the chips, for twice the bytes."""
    return all(width % (TILE * fsdp) == 0 for width in widths)


def _widths(preset: dict) -> set[int]:
    """Of all modules: what fsdp splits."""
    found = {preset["hidden_size"]} if "hidden_size" in preset else set()
    return found.union(*(_widths(value) for value in preset.values() if isinstance(value, dict)))


def _heads(preset: Any) -> int:
    llm = getattr(preset, "llm", getattr(preset, "text", preset))
    return llm.num_kv_heads


def search(config: ConfigDict, where: Topology, say: Callable[[str], None]) -> list[Trial]:
    """Every candidate's trial, those that fit first, the fastest of them on top."""
    trials = []
    for changes in candidates(config, where):
        trial = _trial(config, where, changes)
        say(line(trial))
        trials.append(trial)
    return sorted(trials, key=lambda t: (not t.works, t.plan.seconds if t.works else 0.0))


def _trial(config: ConfigDict, where: Topology, changes: dict[str, Any]) -> Trial:
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(changes)
    try:
        return Trial(changes, compile.plan(changed, where))
    except TempoError as error:
        return Trial(changes, None, str(error))


def line(trial: Trial) -> str:
    """One trial in one line."""
    what = " ".join(f"{field}={value}" for field, value in trial.changes.items())
    if trial.plan is None:
        return f"{what}: {trial.problem}"
    if not trial.works:
        refused = next(f for f in trial.plan.findings if f.refusal)
        return f"{what}: {refused.name} {refused.refusal}"
    fullest = max(f.hbm_bytes / f.chip.hbm for f in trial.plan.findings)
    return f"{what}: {trial.plan.seconds:.3g} s, MFU {trial.mfu:.1%}, {fullest:.0%} of HBM"


def report_of(trials: list[Trial], where: Topology) -> str:
    return "\n".join([f"{where}: {sum(t.works for t in trials)} of {len(trials)} fit", *map(line, trials)])


def run(config: ConfigDict, where: Topology, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """The search as text and as plain values for JSON."""
    trials = search(config, where, say)
    values = [
        {"changes": t.changes, "plan": report.to_json(t.plan) if t.plan else None, "problem": t.problem}
        for t in trials
    ]
    return report_of(trials, where), {"topology": str(where), "trials": values}
