"""Searches mesh shape, rematerialization and micro-batch size of a config on one topology.

A training step of 6B takes minutes to compile, so the search is greedy: the tensor axis first, then the FSDP
group size, what is rematerialized, and the rows of a micro-batch, each with the best values found so far of
the others.
"""

import dataclasses
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from tempo_jax.errors import TempoError
from tempo_jax.models.presets import PRESETS
from tempo_jax.plan import compile, report
from tempo_jax.plan import topology as topologies
from tempo_jax.plan.topology import Topology
from tempo_jax.tasks import TASKS

Overrides = dict[str, Any]  # fields of the config

TENSOR = (1, 2, 4, 8)  # sizes of the axis that heads are split over
REMAT = ("dots", "attention", "full")
# Of vision tower, compressor and LLM, where a task runs all three.
REMAT_OF_THREE = ("dots", "attention,attention,dots", "attention", "attention,full,attention", "full")
MIN_MEMORY_REMAT = "full"  # needs the least memory: what does not fit with it does not fit at all
TILE = 16  # rows of a bfloat16 tile on a TPU
MICRO_BATCH_SCALES = (1, 2, 0.5)  # of the config's rows; the number of micro-batches is divided by them


class Trial(NamedTuple):
    """A set of overrides, and the plan of the config with them."""

    overrides: Overrides
    plan: compile.Plan | None
    problem: str = ""  # why there is no plan

    @property
    def works(self) -> bool:
        return self.plan is not None and self.plan.fits

    @property
    def mfu(self) -> float:
        return self.plan.reports[0].mfu if self.works else 0.0


# Compiles those that were not tried yet, and returns the best of all trials; None while none fits.
Attempt = Callable[[Iterable[Overrides]], Overrides | None]


def search(config: ConfigDict, topology: Topology, log: Callable[[str], None], jobs: int = 1) -> list[Trial]:
    """Returns all trials: those that fit first, the fastest at the top.

    Args:
      config: A training or inference config.
      topology: What to compile for.
      log: Called with lines of progress.
      jobs: Concurrent compilations; a training step of 6B takes up to 12 GB of host memory each.

    Raises:
      TempoError: No mesh of the topology divides the batch.
    """
    trials: dict[tuple, Trial] = {}
    with ThreadPoolExecutor(jobs) as pool:  # libtpu releases the GIL while it compiles

        def attempt(candidates: Iterable[Overrides]) -> Overrides | None:
            """Tries the candidates, and returns the best of all trials so far."""
            by_key = {_key(overrides): overrides for overrides in candidates}
            futures = {
                pool.submit(_trial, config, topology, overrides): key
                for key, overrides in by_key.items()
                if key not in trials
            }
            if futures:
                log(f"{topology}: {len(futures)} to compile, {len(trials)} done ...")
            for future in as_completed(futures):
                trials[futures[future]] = future.result()
                log(format_trial(future.result()))
            best = _fastest(trials.values())[:1]
            return best[0].overrides if best and best[0].works else None

        (_search_inference if "ask" in config else _search_training)(config, topology, attempt)
    return _fastest(trials.values())


def _key(overrides: Overrides) -> tuple:
    return tuple(sorted(overrides.items()))


def _fastest(trials: Iterable[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda t: (not t.works, t.plan.seconds if t.works else 0.0))


def _search_inference(config: ConfigDict, topology: Topology, attempt: Attempt) -> None:
    """Tries FSDP only where replicas without it, whose chips need no all-gathers, do not fit."""
    sizes = tensor_sizes(config, topology)
    if not attempt(_mesh(topology, tensor, 1) for tensor in sizes):
        attempt(_mesh(topology, tensor, fsdp_sizes(config, topology, tensor)[0]) for tensor in sizes)


def _search_training(config: ConfigDict, topology: Topology, attempt: Attempt) -> None:
    """All trials have the config's number of samples per optimizer step."""
    min_memory = {"remat": MIN_MEMORY_REMAT}
    meshes = [
        mesh
        for tensor in tensor_sizes(config, topology)
        for mesh in batch_overrides(
            config, _mesh(topology, tensor, fsdp_sizes(config, topology, tensor)[0]) | min_memory
        )
    ]
    if not meshes:
        raise TempoError(
            f"no mesh of {topology.devices} devices gets equal parts of {config.batch.shards} rows: choose "
            "batch.shards and micro_batches to match, or another slice"
        )
    first_by_tensor = {mesh["mesh.tensor"]: mesh for mesh in reversed(meshes)}
    best = attempt(first_by_tensor.values()) or attempt(meshes)
    if best is None:
        return
    for fsdp in fsdp_sizes(config, topology, best["mesh.tensor"])[1:]:
        best = attempt([best | _mesh(topology, best["mesh.tensor"], fsdp)])
        if fsdp < best["mesh.fsdp"]:
            break  # more replicas are slower or do not fit
    policies = REMAT_OF_THREE if TASKS[config.task].num_remat_stacks == 3 else REMAT
    best = attempt(best | {"remat": remat} for remat in policies)
    attempt(batch_overrides(config, best))


def tensor_sizes(config: ConfigDict, topology: Topology) -> list[int]:
    """Sizes of the tensor axis that divide a slice and the key/value heads."""
    heads, devices = _kv_heads(_preset(config)), topology.devices // topology.slices
    return [n for n in TENSOR if devices % n == 0 and heads % n == 0]


def fsdp_sizes(config: ConfigDict, topology: Topology, tensor: int) -> list[int]:
    """FSDP group sizes to try: the largest with tile-aligned shards, a whole slice, then smaller ones."""
    inner = topology.devices // topology.slices // tensor
    widths = _widths(dataclasses.asdict(_preset(config)))
    divisors = [n for n in range(inner, 0, -1) if inner % n == 0]
    aligned = next(n for n in divisors if is_tile_aligned(widths, n))
    return [aligned, *([inner] if inner > aligned else []), *(n for n in divisors if n < aligned)]


def _mesh(topology: Topology, tensor: int, fsdp: int) -> Overrides:
    """A mesh of all devices; slices are replicas, on the data axis."""
    return {"mesh.data": topology.devices // tensor // fsdp, "mesh.fsdp": fsdp, "mesh.tensor": tensor}


def batch_overrides(config: ConfigDict, mesh: Overrides) -> list[Overrides]:
    """The mesh with micro-batches whose rows it divides evenly, the config's own first."""
    sizes, all_overrides = config.batch, []
    for scale in MICRO_BATCH_SCALES:
        rows, micro_batches = sizes.shards * scale, sizes.micro_batches / scale
        overrides = mesh | {"batch.shards": int(rows), "batch.micro_batches": int(micro_batches)}
        is_whole = rows == int(rows) and micro_batches == int(micro_batches)
        if is_whole and _divides_evenly(config, overrides):
            all_overrides.append(overrides)
    return all_overrides


def _divides_evenly(config: ConfigDict, overrides: Overrides) -> bool:
    rows = overrides["batch.shards"] * config.batch.sequences
    return rows % (overrides["mesh.data"] * overrides["mesh.fsdp"]) == 0


def _preset(config: ConfigDict) -> Any:
    return PRESETS[config.model] if config.model else PRESETS["tempo-6b"]


def is_tile_aligned(widths: set[int], fsdp: int) -> bool:
    """Whether every chip's shard of each width is a multiple of TILE rows.

    XLA all-gathers such shards; others it writes into zeros and all-reduces, which moves twice the bytes.
    """
    return all(width % (TILE * fsdp) == 0 for width in widths)


def _widths(preset: dict) -> set[int]:
    """Hidden sizes of all modules, which FSDP shards."""
    widths = {preset["hidden_size"]} if "hidden_size" in preset else set()
    return widths.union(*(_widths(value) for value in preset.values() if isinstance(value, dict)))


def _kv_heads(preset: Any) -> int:
    llm = getattr(preset, "llm", getattr(preset, "text", preset))
    return llm.num_kv_heads


def _trial(config: ConfigDict, topology: Topology, overrides: Overrides) -> Trial:
    overridden = config.copy_and_resolve_references()
    overridden.update_from_flattened_dict(overrides)
    try:
        return Trial(overrides, compile.plan(overridden, topology))
    except TempoError as error:
        return Trial(overrides, None, str(error))


def format_trial(trial: Trial) -> str:
    """One line of text about a trial."""
    overrides = " ".join(f"{field}={value}" for field, value in trial.overrides.items())
    if trial.plan is None:
        return f"{overrides}: {trial.problem}"
    if not trial.works:
        refused = next(program for program in trial.plan.reports if program.oom)
        return f"{overrides}: {refused.name} {refused.oom}"
    hbm = max(program.hbm_bytes / program.chip.hbm for program in trial.plan.reports)
    found = report.calibrated(trial.plan)
    calibrated = f" (calibrated {found['seconds']:.3g} s)" if found else ""
    return f"{overrides}: {trial.plan.seconds:.3g} s{calibrated}, MFU {trial.mfu:.1%}, {hbm:.0%} of HBM"


def format_trials(trials: list[Trial], topology: Topology) -> str:
    """All trials, one per line, after a line that counts them."""
    fitting = sum(trial.works for trial in trials)
    return "\n".join([f"{topology}: {fitting} of {len(trials)} fit", *map(format_trial, trials)])


def run(
    config: ConfigDict, topology: Topology, log: Callable[[str], None], jobs: int = 1
) -> tuple[str, dict[str, Any]]:
    """Runs `search`; returns its result as text and as plain values for JSON."""
    topologies.devices(topology)  # libtpu loads once, before threads ask for it
    trials = search(config, topology, log, jobs)
    values = [
        {
            "changes": trial.overrides,
            "plan": report.to_json(trial.plan) if trial.plan else None,
            "problem": trial.problem,
        }
        for trial in trials
    ]
    return format_trials(trials, topology), {"topology": str(topology), "trials": values}
