"""What a run needs to go on: `workdir/frozen` once, `workdir/checkpoints/<step>` again and again.

    frozen/             model.json, tokenizer/ and the parameters that never change
    checkpoints/<step>  state (learning parameters, optimiser, step, skipped), data/shard_<i>.json, and as
                        metadata the config and the code version

Orbax writes a step beside its place and renames it when it is whole: a save that is killed or finds the
disk full leaves the earlier ones as they were. Every process calls everything.
"""

import base64
import contextlib
import json
import subprocess
from collections.abc import Awaitable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
from absl import logging
from orbax.checkpoint import v1 as ocp

import tempo_jax
from tempo_jax import checkpoint, failures
from tempo_jax.errors import TempoError
from tempo_jax.folders import FORCE, replacing
from tempo_jax.trees import flatten, nest


class Checkpoints:
    """The checkpoints of a working directory."""

    def __init__(self, workdir: Path, keep: int):
        self.workdir, self._saving = workdir, None
        # Orbax tells of every step it takes, and of a failure in its own words before it raises.
        logging.set_verbosity(logging.FATAL)
        self._steps = ocp.training.Checkpointer(
            (workdir / "checkpoints").resolve(),
            context=_context(),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    @property
    def latest(self) -> int | None:
        """The last step that is whole."""
        return self._steps.latest.step if self._steps.latest else None

    def info(self) -> dict:
        """What was noted with the latest step: "config", "code"."""
        return self._steps.metadata(self.latest).custom_metadata

    def save(self, step: int, state: Any, data: dict[int, Any], info: dict) -> None:
        """Begins to write step `step`; returns when the device's memory may be reused.

        data: states of the data shards that this process answers for. TempoError when this or the save
        before could not be written.
        """
        with self._failure_is_a_sentence(step):
            self._steps.save_checkpointables_async(
                step, {"state": _named(state), "data": _Shards(data)}, force=True, custom_metadata=info
            )
        self._saving = step

    def check(self) -> None:
        """Raises TempoError when the save under way is known to have failed; does not wait."""
        if self._saving is not None and not self._steps.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Until everything is written; TempoError when it could not be."""
        with self._failure_is_a_sentence(self._saving):
            self._steps.wait()
        self._saving = None

    def load(self, abstract: Any, shards: Iterable[int]) -> tuple[Any, dict[int, Any]]:
        """The latest state in the places of `abstract` (arrays' shapes with shardings), and data states."""
        data = _Shards(dict.fromkeys(shards))
        with checkpoint.damage_is_a_sentence(self._steps.latest.path):
            found = self._steps.load_checkpointables(self.latest, {"state": _named(abstract), "data": data})
        leaves = flatten(found["state"])
        paths, structure = _paths(abstract)
        return jax.tree.unflatten(structure, [leaves[path] for path in paths]), data.states

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            self._steps.close()
        except Exception:  # what went wrong first is what counts
            if error is None:
                raise

    @property
    def _whole(self) -> str:
        self._steps.reload()
        return "there is no earlier one" if self.latest is None else f"that of step {self.latest} is whole"

    @contextlib.contextmanager
    def _failure_is_a_sentence(self, step: int | None) -> Iterator[None]:
        """What the system refuses, a full disk say; other errors pass."""
        try:
            yield
        except Exception as error:
            refused = failures.refusal(error)
            if refused is None:
                raise
            full = refused.code in failures.FULL
            raise TempoError(
                f"the checkpoint of step {step} could not be written because "
                f"{'the disk is full' if full else refused}; {self._whole}: "
                f"{'free some space' if full else 'mend that'} and run the same command again"
            ) from error


def save_frozen(workdir: Path, kind: str, config: Any, frozen: dict, tokenizer: Path, origin: dict) -> None:
    """Writes workdir/frozen: all that the checkpoints of the steps leave out."""
    with replacing(workdir / "frozen", FORCE) as folder:
        if frozen:
            with checkpoint.saving_context(), checkpoint.quiet():
                ocp.save(folder / "params", nest(frozen))
        if jax.process_index() == 0:
            checkpoint.describe(folder, kind, config, tokenizer, origin)


def load_frozen(workdir: Path, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """The parameters that never change, {path: array}."""
    folder = workdir / "frozen"
    return flatten(checkpoint.load_params(folder, shardings=mesh)) if (folder / "params").exists() else {}


def code_version() -> str:
    """The package's version, and the commit where the code is a git checkout."""
    here = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        described = ""
    return f"{tempo_jax.__version__}{f' ({described})' if described else ''}"


def _context() -> ocp.Context:
    context = checkpoint.saving_context()
    context.memory.deepcopy_host_arrays = True  # training goes on while they are written
    return context


def _paths(tree: Any) -> tuple[list[str], Any]:
    """A name for every leaf that does not depend on optax's classes, and the tree's structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves], structure


def _named(tree: Any) -> dict:
    return nest(dict(zip(_paths(tree)[0], jax.tree.leaves(tree), strict=True)))


class _Shards:
    """States of data shards as an Orbax "checkpointable": one small JSON file each.

    save: writes `states`; load: replaces the values of `states` by what the files hold.
    """

    def __init__(self, states: dict[int, Any]):
        self.states = states

    async def save(self, directory: Any) -> Awaitable[None]:
        texts = {shard: json.dumps(_encode(state)) for shard, state in self.states.items()}

        async def write() -> None:
            folder = Path(await directory.await_creation())
            for shard, text in texts.items():
                (folder / f"shard_{shard}.json").write_text(text, encoding="utf-8")

        return write()

    async def load(self, directory: Any) -> Awaitable[None]:
        async def read() -> None:
            for shard in self.states:
                text = (Path(directory) / f"shard_{shard}.json").read_text(encoding="utf-8")
                self.states[shard] = _decode(json.loads(text))

        return read()


def _encode(state: Any) -> Any:
    return {"base64": base64.b64encode(state).decode()} if isinstance(state, bytes) else {"json": state}


def _decode(value: dict) -> Any:
    return base64.b64decode(value["base64"]) if "base64" in value else value["json"]
