"""Writing the checkpoints of a run: `workdir/frozen` once, `workdir/checkpoints/<step>` regularly.

    frozen/             model.json, tokenizer/ and the frozen parameters
    checkpoints/<step>  state (trainable parameters, optimizer, step, skipped), data/shard_<i>.json, as
                        metadata the config, the code version and the streak of non-finite steps, and, once
                        they are computed, digests/<process>.json of all its files

Orbax writes a step under a temporary name and renames it when it is complete: a save that is killed or finds
the disk full leaves the earlier ones intact. Where folders are not renamed atomically (`utils.commit`), it
writes in place and `commit_success.txt` last, without which a step does not count. Every process calls
everything. `restore` reads.
"""

import base64
import contextlib
import functools
import json
import subprocess
import threading
import zlib
from collections.abc import Awaitable, Iterator
from pathlib import Path, PurePath
from typing import Any

import jax
from absl import logging
from orbax.checkpoint import v1 as ocp

import tempo_jax
from tempo_jax import checkpoint
from tempo_jax.errors import TempoError
from tempo_jax.training import param_groups, peers
from tempo_jax.utils import digests, failures, gcs
from tempo_jax.utils import paths as places
from tempo_jax.utils.commit import AUTO, by_marker
from tempo_jax.utils.folders import FORCE, atomic_directory
from tempo_jax.utils.paths import AnyPath
from tempo_jax.utils.tree import flatten, nest

# Names in checkpoints that fields of `State` and groups of parameters have had since the first format.
STORED_NAMES = {"trainable": "learning", "optimizer": "optimiser"} | param_groups.STORED_NAMES
FOLDER, DIGESTS = "checkpoints", "digests"
COMMITTED = "commit_success.txt"  # Orbax's
PROBE_SECONDS = 15.0  # between probes of the storage while a save is waited for
REFUSALS = 2  # of the storage in a row until the save is given up


class CheckpointManager:
    """Writes the checkpoints of a working directory, which the caller owns (`owner`).

    Leftovers of an interrupted save are deleted.

    Args:
      workdir: The working directory.
      keep: `config.checkpoints`: which of them are preserved.
      commit: `config.commit`: "marker" where renaming a folder is not atomic.
    """

    def __init__(self, workdir: AnyPath, keep: Any, commit: str = AUTO):
        self.workdir, self._saving, self._digesting = workdir, None, None
        self._digest_errors: list[Exception] = []
        if places.remote(workdir):
            _clean_up(workdir)
        # Orbax logs every step it takes, and a failure in its own words before it raises.
        logging.set_verbosity(logging.FATAL)
        self._steps = ocp.training.Checkpointer(
            places.absolute(workdir / FOLDER),
            context=_context(by_marker(workdir, commit)),
            preservation_policy=_preservation_policy(keep),
            cleanup_tmp_directories=True,
        )
        if jax.process_count() > 1:
            self._fail_at_once()

    def _fail_at_once(self) -> None:
        """Ends all processes when this one cannot write: Orbax would wait for the others before it raises."""
        manager = self._steps._manager
        wait = manager._wait_for_checkpointers

        def watched() -> None:
            try:
                with self._report_save_failure(self._saving):
                    wait()
            except Exception as error:
                peers.give_up("train", error)

        manager._wait_for_checkpointers = watched

    @property
    def latest(self) -> int | None:
        """The last step whose checkpoint is complete."""
        return self._steps.latest.step if self._steps.latest else None

    def save(
        self, step: int, state: Any, data: dict[int, Any], info: dict, loss: float | None = None
    ) -> None:
        """Starts to write a checkpoint; returns when the device's memory may be reused.

        Args:
          step: The step.
          state: The training state.
          data: States of the data shards that this process writes.
          info: Metadata, as JSON values.
          loss: Validation loss after this step, by which the best checkpoints are kept.

        Raises:
          TempoError: This save or the previous one could not be written.
        """
        self.wait()
        self._saving = step
        with self._report_save_failure(step):
            self._steps.save_checkpointables_async(
                step,
                {"state": by_name(state), "data": DataStates(data)},
                force=True,
                custom_metadata=info,
                metrics=None if loss is None else {"validation_loss": loss},
            )

    def check(self) -> None:
        """Raises TempoError if the save in progress is known to have failed; does not wait."""
        if self._saving is not None and not self._steps.is_saving_in_progress():
            self._finish_save()
        self._raise_digest_errors()

    def wait(self) -> None:
        """Waits until everything is written; raises TempoError if it could not be."""
        if self._saving is not None:
            self._finish_save()
        if self._digesting is not None:
            self._digesting[1].join()
        self._raise_digest_errors()

    def _finish_save(self) -> None:
        """Waits for the save in progress and starts the thread that computes its digests."""
        step = self._saving
        with self._report_save_failure(step), self._watched_storage():
            self._steps.wait()
        self._saving = None
        if places.remote(self.workdir):
            return  # it has checksums of its own
        thread = threading.Thread(target=self._digest, args=(step,), name="digests", daemon=True)
        self._digesting = step, thread
        thread.start()

    def _digest(self, step: int) -> None:
        try:
            write_digests(self.workdir / FOLDER / f"{step}")
        except Exception as error:
            self._digest_errors.append(error)

    def _raise_digest_errors(self) -> None:
        if self._digest_errors:
            with self._report_save_failure(self._digesting[0]):
                raise self._digest_errors.pop()

    def __enter__(self) -> "CheckpointManager":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            with self._watched_storage(error):
                self._steps.close()
            if error is None:
                self.wait()
        except Exception:  # the first error is the one to report
            if error is None:
                raise

    @contextlib.contextmanager
    def _watched_storage(self, error: BaseException | None = None) -> Iterator[None]:
        """Ends the process where gs:// refuses meanwhile, or soon where an error is on its way already.

        Orbax waits ten minutes and more for signals of a save whose first request was refused.
        """
        if not places.remote(self.workdir):
            yield
            return
        ended = threading.Event()
        threading.Thread(target=self._watch, args=(ended, error), name="storage", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _watch(self, ended: threading.Event, error: BaseException | None) -> None:
        refusals = 0
        while not ended.wait(PROBE_SECONDS):
            if error is not None:
                peers.give_up("train", error)
            try:
                gcs.check_writable(f"the checkpoint of step {self._saving}, in", self.workdir)
                refusals = 0
            except Exception as refused:
                refusals += 1
                if refusals == REFUSALS and not ended.is_set():
                    peers.give_up("train", refused)

    @property
    def _latest_intact(self) -> str:
        complete = steps(self.workdir)
        return f"that of step {complete[0]} is intact" if complete else "there is no earlier one"

    @contextlib.contextmanager
    def _report_save_failure(self, step: int | None) -> Iterator[None]:
        """Turns what the system refuses, such as a full disk, into a TempoError; other errors pass."""
        try:
            yield
        except Exception as error:
            refused = failures.refusal(error)
            if refused is None:
                about = f"the checkpoint of step {step} could not be written"
                if said := gcs.user_error(error, about):
                    raise type(said)(f"{said} ({self._latest_intact})") from error
                raise
            full = refused.code in failures.FULL
            raise TempoError(
                f"the checkpoint of step {step} could not be written because "
                f"{'the disk is full' if full else refused}; {self._latest_intact}: "
                f"{'free some space' if full else 'fix that'} and rerun the same command"
            ) from error


def steps(workdir: Path) -> list[int]:
    """Returns the steps with a complete checkpoint, the last one first."""
    folder = workdir / FOLDER
    if places.remote(folder):
        names = [PurePath(name).parts for name in places.files(folder)]
        found = [parts[0] for parts in names if len(parts) == 2 and parts[1] == COMMITTED]
    else:
        found = [path.name for path in folder.iterdir() if _whole(path)] if folder.is_dir() else []
    return sorted((int(name) for name in found if name.isdigit()), reverse=True)


def _whole(step: Path) -> bool:
    """Whether a step on a disk was committed; one that --commit=marker began has its name before that."""
    if (step / COMMITTED).exists():
        return True
    try:
        told = json.loads((step / "_CHECKPOINT_METADATA").read_text(encoding="utf-8"))
        return told["commit_timestamp_nsecs"] is not None
    except (OSError, ValueError, KeyError, TypeError):
        return True  # damaged: restoring reports it


def _clean_up(workdir: AnyPath) -> None:
    """Removes what killed saves left in gs://: Orbax, doing so, trips over folders that vanish with it."""
    if jax.process_index() == 0:
        whole = set(steps(workdir))
        names = {PurePath(name).parts[0] for name in places.files(workdir / FOLDER)}
        for name in names:
            if name.isdigit() and int(name) not in whole:
                places.remove(workdir / FOLDER / name)
    peers.exchange()


def _preservation_policy(keep: Any) -> Any:
    """Keeps the last ones, those whose step is a multiple, and those of the lowest validation loss."""
    policies = ocp.training.preservation_policies
    policy = [policies.LatestN(keep.latest)]
    if keep.every:
        policy.append(policies.EveryNSteps(keep.every))
    if keep.best:
        policy.append(
            policies.BestN(
                get_metric_fn=lambda metrics: -metrics["validation_loss"],
                n=keep.best,
                keep_checkpoints_without_metrics=False,
            )
        )
    return policies.AnyPreservationPolicy(policy)


def write_digests(step: Path) -> None:
    """Writes this process's part of a checkpoint's digests, step/digests/<process>.json, for `restore`."""
    parts, process = jax.process_count(), jax.process_index()
    files = {
        name: digests.of_file(path)
        for name, path in _files(step)
        if zlib.crc32(name.encode()) % parts == process
    }
    folder = step / DIGESTS
    folder.mkdir(exist_ok=True)
    text = json.dumps({"parts": parts, "files": files}, separators=(",", ":"))
    fresh = folder / f".{process}.incomplete"
    fresh.write_text(text + "\n", encoding="utf-8")
    fresh.replace(folder / f"{process}.json")


def _files(step: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(step.rglob("*")):
        name = path.relative_to(step)
        if path.is_file() and name.parts[0] != DIGESTS:
            yield name.as_posix(), path


def save_frozen(
    workdir: Path,
    kind: str,
    config: Any,
    frozen: dict,
    tokenizer: Path,
    origin: dict,
    *,
    commit: str = AUTO,
) -> None:
    """Writes workdir/frozen: everything that the checkpoints of the steps leave out."""
    with atomic_directory(workdir / "frozen", FORCE, commit=commit) as folder:
        if frozen:
            context = checkpoint.saving_context(compress=False, marker=by_marker(folder, commit))
            with context, checkpoint.quiet():
                ocp.save(folder / "params", nest(frozen))
        if jax.process_index() == 0:
            checkpoint.write_metadata(folder, kind, config, tokenizer, origin)


def check_frozen(folder: Path) -> None:
    """Raises TempoError where workdir/frozen is missing."""
    if not (folder / "model.json").exists():
        raise TempoError(f"{folder} is missing, which every checkpoint of the run needs: {_PUT_BACK}")


def load_frozen(folder: Path, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Loads the frozen parameters, {path: array}.

    On a disk, a single process verifies every byte by its digest; several read only their own part.
    """
    if not (folder / "params").exists():
        return {}
    verify = not places.remote(folder) and jax.process_count() == 1 and (folder / digests.FILE).is_file()
    try:
        return flatten(checkpoint.load_params(folder, shardings=mesh, verify=verify))
    except TempoError as error:
        raise TempoError(f"{str(error).rsplit(': ', 1)[0]}: {_PUT_BACK}") from error


_PUT_BACK = "put a copy of that folder back (a new run with the same config starts with the same one)"


@functools.cache
def code_version() -> str:
    """Returns the version of the package, and the commit where the code is a git checkout."""
    here = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        described = ""
    return f"{tempo_jax.__version__}{f' ({described})' if described else ''}"


def code_digest() -> str:
    """Returns a digest of the package's source files, which must be the same in all processes."""
    root = Path(tempo_jax.__file__).parent
    crc = 0
    for path in sorted(root.rglob("*.py")):
        crc = zlib.crc32(path.relative_to(root).as_posix().encode() + path.read_bytes(), crc)
    return f"{code_version()}, {crc:08x}"


def _context(marker: bool) -> ocp.Context:
    context = checkpoint.saving_context(marker=marker)
    context.memory.deepcopy_host_arrays = True  # training continues while they are written
    return context


def leaf_names(tree: Any) -> tuple[list[str], Any]:
    """Names every leaf independently of optax's classes; returns the names and the tree's structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return ["/".join(_stored_name(key) for key in path) for path, _ in leaves], structure


def _stored_name(key: Any) -> str:
    """The part of a leaf's name that one key of its path is in checkpoints."""
    name = jax.tree_util.keystr((key,), simple=True)
    return STORED_NAMES.get(name, name)


def by_name(tree: Any) -> dict:
    return nest(dict(zip(leaf_names(tree)[0], jax.tree.leaves(tree), strict=True)))


class DataStates:
    """States of data shards as an Orbax "checkpointable": one small JSON file each.

    `save` writes `states`; `load` replaces the values of `states` by those of the files.
    """

    def __init__(self, states: dict[int, Any]):
        self.states = states

    async def save(self, directory: Any) -> Awaitable[None]:
        texts = {shard: json.dumps(_encode(state)) for shard, state in self.states.items()}

        async def write() -> None:
            folder = await directory.await_creation()
            for shard, text in texts.items():
                (folder / f"shard_{shard}.json").write_text(text, encoding="utf-8")

        return write()

    async def load(self, directory: Any) -> Awaitable[None]:
        async def read() -> None:
            for shard in self.states:
                text = (directory / f"shard_{shard}.json").read_text(encoding="utf-8")
                self.states[shard] = _decode(json.loads(text))

        return read()


def _encode(state: Any) -> Any:
    return {"base64": base64.b64encode(state).decode()} if isinstance(state, bytes) else {"json": state}


def _decode(value: dict) -> Any:
    return base64.b64decode(value["base64"]) if "base64" in value else value["json"]
