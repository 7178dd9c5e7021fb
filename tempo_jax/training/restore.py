"""Reading the checkpoints of a run: the newest that is whole, by the digests that were taken of it.

A damaged one is named and, by whoever owns the working directory, set aside as workdir/damaged/<step>.
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
from tempo_jax.training.checkpoints import COMMITTED, DIGESTS, FOLDER, Shards, named, paths, steps
from tempo_jax.training.metrics import say
from tempo_jax.utils import digests, failures, gcs
from tempo_jax.utils import paths as places
from tempo_jax.utils.tree import flatten

ASIDE = "damaged"


class Restored(NamedTuple):
    """`info`: what was noted with the step: "config", "code", "not_finite"."""

    step: int
    info: dict
    state: Any
    data: dict[int, Any]


class Damaged(Exception):
    """A checkpoint that is not what was written; the text says how that shows."""


def agreed_steps(workdir: Path) -> list[int]:
    """The steps that process 0 sees; every process calls it."""
    return json.loads(peers.exchange(json.dumps(steps(workdir)))[0])


def restore(
    config: ConfigDict, workdir: Path, abstract: Any, shards: Sequence[int], *, owned: bool
) -> Restored:
    """The newest whole checkpoint in the places of `abstract`; every process calls it.

    owned: whether damaged ones may be set aside. TempoError where none is whole, where config.fallback
    forbids to take an earlier one, or where the run has other settings.
    """
    damaged: dict[int, str] = {}
    while True:
        left = [step for step in agreed_steps(workdir) if step not in damaged]
        if not left:
            told = "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())
            raise TempoError(
                f"no checkpoint in {workdir} is whole ({told}): put a copy back, or choose another --workdir "
                "to begin anew"
            )
        folder = workdir / FOLDER / f"{left[0]}"
        found, reason = _tried(config, workdir, folder, abstract, shards)
        if found is not None:
            _tell(workdir, damaged, found.step, owned)
            return found
        if not owned and not peers.all_of(folder.is_dir()):
            continue  # the run that owns it has newer ones now
        damaged[left[0]] = reason
        if not config.fallback:
            raise TempoError(
                f"the checkpoint of step {left[0]} in {workdir} is damaged ({reason}): put a copy back, or "
                "leave out --config.fallback=False to go on with the one before it"
            )


def _tried(config, workdir, folder: Path, abstract, shards) -> tuple[Restored | None, str]:
    """The checkpoint, or why no process may use it: what one finds, all know."""
    info, state, data, complete, reason = {}, None, {}, False, ""
    with _told() as problem:
        complete = verify(folder)
        info = _info(folder)
    if reason := _first(peers.exchange(problem[0])):
        return None, reason
    configs.check_same_run(info["config"], config, workdir)
    with _told() as problem:
        state, data = _load(folder, abstract, shards, complete)
    if reason := _first(peers.exchange(problem[0])):
        return None, reason
    return Restored(int(folder.name), info, state, data), ""


def _tell(workdir: Path, damaged: dict[int, str], step: int, owned: bool) -> None:
    """Says what is not used, and puts it where no later start stumbles over it."""
    for number, reason in damaged.items():
        where = workdir / ASIDE / f"{number}"
        if owned:
            for more in range(1, 1000):
                if not where.exists():
                    break
                where = where.with_name(f"{number}.{more}")
            peers.exchange()
            if jax.process_index() == 0:
                places.move(workdir / FOLDER / f"{number}", where, (COMMITTED,))
        aside = f"it is set aside as {where}, and " if owned else ""
        say(f"the checkpoint of step {number} is damaged ({reason}): {aside}that of step {step} is used")
    peers.exchange()


@contextlib.contextmanager
def _told() -> Iterator[list[str]]:
    """A list of one text: what was damaged inside."""
    problem = [""]
    try:
        yield problem
    except Damaged as error:
        problem[0] = str(error) or "unreadable"


def _first(problems: Sequence[str]) -> str:
    return next((problem for problem in problems if problem), "")


def verify(step: Path) -> bool:
    """Whether all files have digests; Damaged where one is not what its digest is of.

    Each process reads its share of the bytes.
    """
    said: dict[str, dict] = {}
    parts = sorted((step / DIGESTS).glob("*.json"))
    wanted = len(parts) or 1
    for path in parts:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            said |= values["files"]
            wanted = int(values["parts"])
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{DIGESTS}/{path.name} is no list of digests") from error
    if missing := [name for name in said if not (step / name).is_file()]:
        raise Damaged(f"{missing[0]} is missing")
    mine = sorted(said)[jax.process_index() :: jax.process_count()]
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for name, found in zip(mine, pool.map(lambda name: digests.of_file(step / name), mine), strict=True):
            for key, what in (("bytes", "size"), ("crc32", "bytes")):
                if found[key] != said[name].get(key):
                    raise Damaged(f"{name} has not the {what} that its digest is of")
    return len(parts) == wanted and bool(parts)


def _info(step: Path) -> dict:
    with _damage(step):
        info = ocp.checkpointables_metadata(step).custom_metadata
        if not isinstance(info, dict) or "config" not in info:
            raise ValueError("its metadata cannot be read")
    return info


def _load(step: Path, abstract: Any, shards: Sequence[int], complete: bool) -> tuple[Any, dict[int, Any]]:
    """State and data states. complete: all bytes are those that were written, so nothing is damaged."""
    data = Shards(dict.fromkeys(shards))
    with _damage(step, complete):
        found = ocp.load_checkpointables(step, {"state": named(abstract), "data": data})
        leaves = flatten(found["state"])
        names, structure = paths(abstract)
        return jax.tree.unflatten(structure, [leaves[name] for name in names]), data.states


@contextlib.contextmanager
def _damage(step: Path, sound: bool = False) -> Iterator[None]:
    """Damaged for what cannot be understood; what the machine refuses is no damage and passes."""
    try:
        with checkpoint.report_corruption(step):
            yield
    except TempoError as error:
        cause = error.__cause__
        refused = failures.refusal(cause)
        if cause is not None and gcs.sentence(cause):
            raise
        if isinstance(cause, MemoryError) or "RESOURCE_EXHAUSTED" in str(cause):
            raise cause from None
        if sound or (refused and refused.code not in (errno.ENOENT, errno.ENOTDIR)):
            raise
        raise Damaged(str(cause).partition("\n")[0][:200] or type(cause).__name__) from error
