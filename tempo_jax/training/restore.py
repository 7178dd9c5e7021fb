"""Reading the checkpoints of a run: the newest one that is intact, as its digests show.

A damaged one is reported and, by the owner of the working directory, moved to workdir/damaged/<step>.
"""

import concurrent.futures
import contextlib
import errno
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from tempo_jax import checkpoint
from tempo_jax.errors import TempoError
from tempo_jax.training import config as configs
from tempo_jax.training import peers
from tempo_jax.training.checkpoints import (
    COMMITTED,
    DIGESTS,
    FOLDER,
    DataStates,
    by_name,
    leaf_names,
    steps,
)
from tempo_jax.training.metrics import say
from tempo_jax.utils import digests, failures, gcs
from tempo_jax.utils import paths as places
from tempo_jax.utils.tree import flatten

ASIDE = "damaged"


class Restored(NamedTuple):
    """A restored checkpoint; `info` is its metadata: "config", "code", "not_finite"."""

    step: int
    info: dict
    state: Any
    data: dict[int, Any]


class Damaged(Exception):
    """A checkpoint differs from what was written; the message says how."""


def agreed_steps(workdir: Path) -> list[int]:
    """Returns the steps that process 0 sees; every process calls it."""
    return json.loads(peers.exchange(json.dumps(steps(workdir)))[0])


def restore(
    config: ConfigDict, workdir: Path, abstract: Any, shards: Sequence[int], *, owned: bool
) -> Restored:
    """Restores the newest intact checkpoint; every process calls it.

    Args:
      config: The config of the run.
      workdir: The working directory.
      abstract: The state as shapes with shardings.
      shards: Data shards whose states are read.
      owned: Whether damaged checkpoints may be moved aside.

    Returns:
      The checkpoint, with its state on the devices.

    Raises:
      TempoError: None is intact, `config.fallback` forbids an earlier one, or the run has other settings.
    """
    damaged: dict[int, str] = {}
    while True:
        candidates = [step for step in agreed_steps(workdir) if step not in damaged]
        if not candidates:
            reasons = "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())
            raise TempoError(
                f"no checkpoint in {workdir} is intact ({reasons}): put a copy back, or choose another "
                "--workdir to start a new run"
            )
        folder = workdir / FOLDER / f"{candidates[0]}"
        restored, reason = _try_restore(config, workdir, folder, abstract, shards)
        if restored is not None:
            _set_aside(workdir, damaged, restored.step, owned)
            return restored
        if not owned and not peers.all_agree(folder.is_dir()):
            continue  # its owner has replaced it by newer ones
        damaged[candidates[0]] = reason
        if not config.fallback:
            raise TempoError(
                f"the checkpoint of step {candidates[0]} in {workdir} is damaged ({reason}): put a copy "
                "back, or leave out --config.fallback=False to resume from the previous one"
            )


def _try_restore(config, workdir, folder: Path, abstract, shards) -> tuple[Restored | None, str]:
    """Returns the checkpoint, or the reason, agreed among processes, why it cannot be used."""
    info, state, data, complete, reason = {}, None, {}, False, ""
    with _report_damage() as problem:
        complete = verify(folder)
        info = _metadata(folder)
    if reason := _first_reason(peers.exchange(problem[0])):
        return None, reason
    configs.check_same_run(info["config"], config, workdir)
    with _report_damage() as problem:
        state, data = _load(folder, abstract, shards, complete)
    if reason := _first_reason(peers.exchange(problem[0])):
        return None, reason
    return Restored(int(folder.name), info, state, data), ""


def _set_aside(workdir: Path, damaged: dict[int, str], step: int, owned: bool) -> None:
    """Reports damaged checkpoints and moves them out of the way of later starts."""
    for number, reason in damaged.items():
        target = workdir / ASIDE / f"{number}"
        if owned:
            for attempt in range(1, 1000):
                if not target.exists():
                    break
                target = target.with_name(f"{number}.{attempt}")
            peers.exchange()
            if jax.process_index() == 0:
                places.move(workdir / FOLDER / f"{number}", target, (COMMITTED,))
        aside = f"it is set aside as {target}, and " if owned else ""
        say(f"the checkpoint of step {number} is damaged ({reason}): {aside}that of step {step} is used")
    peers.exchange()


@contextlib.contextmanager
def _report_damage() -> Iterator[list[str]]:
    """Yields a list of one text, which tells what Damaged was raised inside."""
    problem = [""]
    try:
        yield problem
    except Damaged as error:
        problem[0] = str(error) or "unreadable"


def _first_reason(problems: Sequence[str]) -> str:
    return next((problem for problem in problems if problem), "")


def verify(step: Path) -> bool:
    """Compares files with their digests; each process reads its part of them.

    Returns:
      Whether all files have digests.

    Raises:
      Damaged: A file is missing or does not match its digest.
    """
    expected: dict[str, dict] = {}
    parts = sorted((step / DIGESTS).glob("*.json"))
    wanted = len(parts) or 1
    for path in parts:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            expected |= values["files"]
            wanted = int(values["parts"])
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{DIGESTS}/{path.name} is no list of digests") from error
    if missing := [name for name in expected if not (step / name).is_file()]:
        raise Damaged(f"{missing[0]} is missing")
    own_files = sorted(expected)[jax.process_index() :: jax.process_count()]
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for name, actual in zip(
            own_files, pool.map(lambda name: digests.of_file(step / name), own_files), strict=True
        ):
            for key, what in (("bytes", "size"), ("crc32", "bytes")):
                if actual[key] != expected[name].get(key):
                    raise Damaged(f"{name} has not the {what} that its digest is of")
    return len(parts) == wanted and bool(parts)


def _metadata(step: Path) -> dict:
    with _classify_errors(step):
        info = ocp.checkpointables_metadata(step).custom_metadata
        if not isinstance(info, dict) or "config" not in info:
            raise ValueError("its metadata cannot be read")
    return info


def _load(step: Path, abstract: Any, shards: Sequence[int], complete: bool) -> tuple[Any, dict[int, Any]]:
    """Loads the state and the data states; `complete` says that all bytes have been verified."""
    data = DataStates(dict.fromkeys(shards))
    with _classify_errors(step, complete):
        values = ocp.load_checkpointables(step, {"state": by_name(abstract), "data": data})
        leaves = flatten(values["state"])
        names, structure = leaf_names(abstract)
        return jax.tree.unflatten(structure, [leaves[name] for name in names]), data.states


@contextlib.contextmanager
def _classify_errors(step: Path, sound: bool = False) -> Iterator[None]:
    """Raises Damaged for unreadable content; what the machine refuses is no damage and passes."""
    try:
        with checkpoint.report_corruption(step):
            yield
    except TempoError as error:
        cause = error.__cause__
        refused = failures.refusal(cause)
        if cause is not None and gcs.user_error(cause):
            raise
        if isinstance(cause, MemoryError) or "RESOURCE_EXHAUSTED" in str(cause):
            raise cause from None
        if sound or (refused and refused.code not in (errno.ENOENT, errno.ENOTDIR)):
            raise
        raise Damaged(str(cause).partition("\n")[0][:200] or type(cause).__name__) from error
