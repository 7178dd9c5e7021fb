"""Mesh shapes, rematerialisation and batch sizes of a config on one slice, one choice after the other.

A training step of 6B takes minutes to compile, so not every combination is tried: first over how many chips
heads spread, then how many chips share one copy of the weights, what is computed again, and how many rows a
micro-batch has, each with the best found so far of the others.
"""

import dataclasses
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from tempo_jax.errors import TempoError
from tempo_jax.models.presets import PRESETS
from tempo_jax.plan import compile, report, topology
from tempo_jax.plan.topology import Topology
from tempo_jax.tasks import TASKS

Overrides = dict[str, Any]  # fields of the config

TENSOR = (1, 2, 4, 8)  # sizes of the axis that splits heads
# Of vision tower, compressor and LLM where a task runs all three.
REMAT = ("dots", "attention", "full")
REMAT_OF_THREE = ("dots", "attention,attention,dots", "attention", "attention,full,attention", "full")
MIN_MEMORY_REMAT = "full"  # of them, in memory: what does not fit with it does not fit
TILE = 16  # rows of bfloat16 that a TPU stores together
MICRO_BATCH_SCALES = (1, 2, 0.5)  # the config's rows of a micro-batch, of which there are as many times fewer


class Trial(NamedTuple):
    overrides: Overrides
    plan: compile.Plan | None
    problem: str = ""  # why there is no plan

    @property
    def works(self) -> bool:
        return self.plan is not None and self.plan.fits

    @property
    def mfu(self) -> float:
        return self.plan.reports[0].mfu if self.works else 0.0


# Compiles what was not tried yet and returns the best of all; None while nothing fits.
Attempt = Callable[[Iterable[Overrides]], Overrides | None]


def search(config: ConfigDict, where: Topology, say: Callable[[str], None], jobs: int = 1) -> list[Trial]:
    """Every trial, those that fit first, the fastest of them on top. TempoError where nothing can be tried.

    jobs: compilations at a time; a training step of 6B takes up to 12 GB of host memory each.
    """
    trials: dict[tuple, Trial] = {}
    with ThreadPoolExecutor(jobs) as pool:  # libtpu compiles without Python's lock

        def attempt(wave: Iterable[Overrides]) -> Overrides | None:
            """The best of all so far, after these."""
            new = {_key(changes): changes for changes in wave}
            waiting = {
                pool.submit(_trial, config, where, changes): key
                for key, changes in new.items()
                if key not in trials
            }
            if waiting:
                say(f"{where}: {len(waiting)} to compile, {len(trials)} done ...")
            for done in as_completed(waiting):
                trials[waiting[done]] = done.result()
                say(format_trial(done.result()))
            best = _fastest(trials.values())[:1]
            return best[0].changes if best and best[0].works else None

        (_ask if "ask" in config else _train)(config, where, attempt)
    return _fastest(trials.values())


def _key(changes: Overrides) -> tuple:
    return tuple(sorted(changes.items()))


def _fastest(trials: Iterable[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda t: (not t.works, t.plan.seconds if t.works else 0.0))


def _ask(config: ConfigDict, where: Topology, attempt: Attempt) -> None:
    """Every chip of a copy reads weights of its own; weights are split further where they do not fit."""
    if not attempt(_mesh(where, tensor, 1) for tensor in tensor_sizes(config, where)):
        attempt(
            _mesh(where, tensor, fsdp_sizes(config, where, tensor)[0])
            for tensor in tensor_sizes(config, where)
        )


def _train(config: ConfigDict, where: Topology, attempt: Attempt) -> None:
    """The optimiser step's samples stay as many as they are."""
    least = {"remat": MIN_MEMORY_REMAT}
    meshes = [
        mesh
        for tensor in tensor_sizes(config, where)
        for mesh in batch_overrides(
            config, _mesh(where, tensor, fsdp_sizes(config, where, tensor)[0]) | least
        )
    ]
    if not meshes:
        raise TempoError(
            f"no mesh of {where.devices} devices gets equal parts of {config.batch.shards} rows: choose "
            "batch.shards and micro_batches to match, or another slice"
        )
    firsts = {mesh["mesh.tensor"]: mesh for mesh in reversed(meshes)}
    best = attempt(firsts.values()) or attempt(meshes)
    if best is None:
        return
    for fsdp in fsdp_sizes(config, where, best["mesh.tensor"])[1:]:
        best = attempt([best | _mesh(where, best["mesh.tensor"], fsdp)])
        if fsdp < best["mesh.fsdp"]:
            break  # more copies do not pay or do not fit
    names = REMAT_OF_THREE if TASKS[config.task].stacks == 3 else REMAT
    best = attempt(best | {"remat": remat} for remat in names)
    attempt(batch_overrides(config, best))


def tensor_sizes(config: ConfigDict, where: Topology) -> list[int]:
    """Chips that heads may spread over: those of a slice and the key/value heads divide by them."""
    heads, devices = _heads(_preset(config)), where.devices // where.slices
    return [n for n in TENSOR if devices % n == 0 and heads % n == 0]


def fsdp_sizes(config: ConfigDict, where: Topology, tensor: int) -> list[int]:
    """Chips that may share one copy of the weights (fsdp), the most with whole tiles first; then all of a
    slice, where that is more, then fewer and fewer."""
    inner = where.devices // where.slices // tensor
    widths = _widths(dataclasses.asdict(_preset(config)))
    divisors = [n for n in range(inner, 0, -1) if inner % n == 0]
    whole = next(n for n in divisors if is_tile_aligned(widths, n))
    return [whole, *([inner] if inner > whole else []), *(n for n in divisors if n < whole)]


def _mesh(where: Topology, tensor: int, fsdp: int) -> Overrides:
    """All devices, several slices on data."""
    return {"mesh.data": where.devices // tensor // fsdp, "mesh.fsdp": fsdp, "mesh.tensor": tensor}


def batch_overrides(config: ConfigDict, mesh: Overrides) -> list[Overrides]:
    """The mesh with numbers of rows that its chips get equal parts of, the config's own first."""
    sizes, found = config.batch, []
    for times in MICRO_BATCH_SCALES:
        rows, micro = sizes.shards * times, sizes.micro_batches / times
        changes = mesh | {"batch.shards": int(rows), "batch.micro_batches": int(micro)}
        if rows == int(rows) and micro == int(micro) and _even(config, changes):
            found.append(changes)
    return found


def _even(config: ConfigDict, changes: Overrides) -> bool:
    rows = changes["batch.shards"] * config.batch.conversations
    return rows % (changes["mesh.data"] * changes["mesh.fsdp"]) == 0


def _preset(config: ConfigDict) -> Any:
    return PRESETS[config.model] if config.model else PRESETS["tempo-6b"]


def is_tile_aligned(widths: set[int], fsdp: int) -> bool:
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


def _trial(config: ConfigDict, where: Topology, changes: Overrides) -> Trial:
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(changes)
    try:
        return Trial(changes, compile.plan(changed, where))
    except TempoError as error:
        return Trial(changes, None, str(error))


def format_trial(trial: Trial) -> str:
    """One trial in one line."""
    what = " ".join(f"{field}={value}" for field, value in trial.overrides.items())
    if trial.plan is None:
        return f"{what}: {trial.problem}"
    if not trial.works:
        refused = next(f for f in trial.plan.reports if f.oom)
        return f"{what}: {refused.name} {refused.oom}"
    fullest = max(f.hbm_bytes / f.chip.hbm for f in trial.plan.reports)
    return f"{what}: {trial.plan.seconds:.3g} s, MFU {trial.mfu:.1%}, {fullest:.0%} of HBM"


def format_trials(trials: list[Trial], where: Topology) -> str:
    return "\n".join(
        [f"{where}: {sum(t.works for t in trials)} of {len(trials)} fit", *map(format_trial, trials)]
    )


def run(
    config: ConfigDict, where: Topology, say: Callable[[str], None], jobs: int = 1
) -> tuple[str, dict[str, Any]]:
    """The search as text and as plain values for JSON."""
    topology.devices(where)  # libtpu loads once, before threads ask for it
    trials = search(config, where, say, jobs)
    values = [
        {"changes": t.overrides, "plan": report.to_json(t.plan) if t.plan else None, "problem": t.problem}
        for t in trials
    ]
    return format_trials(trials, where), {"topology": str(where), "trials": values}
