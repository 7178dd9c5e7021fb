"""Global batches on a mesh: which shards a process builds, and a thread that stays ahead of the step."""

import queue
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from tempo_jax import sharding
from tempo_jax.data.buckets import buckets_of
from tempo_jax.errors import TryAgain
from tempo_jax.tasks import TASKS
from tempo_jax.training.step import batch_specs

AHEAD = 2  # batches that wait on the device
LAST_READ_SECONDS = 20.0  # that the batch under way may take when a run ends


class Layout:
    """How a global batch of `config.batch.shards` shards lies on a mesh.

    Leaves are [micro-batches, shards x per shard, ...]; the rows are spread over data x fsdp, or over
    fewer axes where the numbers do not divide. `shards`: those this process needs, ascending; `owned`:
    those it answers for in checkpoints, so that each is written once.
    """

    def __init__(self, config: ConfigDict, mesh: jax.sharding.Mesh):
        self.mesh, self.count = mesh, config.batch.shards
        self.specs = batch_specs(TASKS[config.task])
        pool = max(1, config.batch.pool)
        sizes = {pool, config.batch.conversations}
        for bucket in buckets_of(config.batch):  # steps of other sizes
            sizes |= {max(1, bucket.pool), bucket.conversations}
        needed: dict[int, set[int]] = {}
        self.uneven: list[int] = []  # numbers of rows that do not divide among the chips that share them
        for per_shard in sizes:
            rows = self.count * per_shard
            spread = jax.NamedSharding(mesh, sharding.partition_spec(("batch",), (rows,), mesh))
            if rows // spread.shard_shape((rows,))[0] < mesh.shape["data"] * mesh.shape["fsdp"]:
                self.uneven.append(rows)
            for device, (index,) in spread.devices_indices_map((rows,)).items():
                start, stop, _ = index.indices(rows)
                shards = range(start // per_shard, -(-stop // per_shard))
                needed.setdefault(device.process_index, set()).update(shards)
        frames = (
            "frames_PFHWC" in TASKS[config.task].batch._fields
        )  # read by all chips (sharding.ENCODER_RULES)
        if frames and self.count * pool % mesh.size and self.count * pool not in self.uneven:
            self.uneven.append(self.count * pool)
        mine = jax.process_index()
        self.shards = sorted(needed[mine])
        self.owned = [s for s in self.shards if mine == min(p for p, have in needed.items() if s in have)]

    def place(self, batch: Any) -> Any:
        """The global device arrays of a host batch that holds this process's shards."""
        return jax.tree.map(self._place, batch, self.specs)

    def _place(self, local: np.ndarray, spec: jax.P) -> jax.Array:
        axis = next(i for i, part in enumerate(spec) if part)
        per_shard = local.shape[axis] // len(self.shards)
        shape = list(local.shape)
        shape[axis] = per_shard * self.count
        names = ["none"] * len(shape)
        names[axis] = "batch"
        where = jax.NamedSharding(self.mesh, sharding.partition_spec(names, shape, self.mesh))

        def rows(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[axis].indices(shape[axis])
            first = self.shards.index(start // per_shard) * per_shard + start % per_shard
            return local[(*index[:axis], slice(first, first + stop - start))]

        return jax.make_array_from_callback(tuple(shape), where, rows)


def _of_worker(error: BaseException) -> TryAgain | None:
    """Where a process that reads data is gone; grain says so in words only."""
    if not isinstance(error, RuntimeError) or "Worker process was terminated" not in str(error):
        return None
    code = str(error).partition("exit code ")[2].split(".")[0]
    return TryAgain(
        f"a process that reads data ended with exit code {code} (-9: killed, as for want of memory): run the "
        "same command again, or with config.data.workers=0 or fewer config.data.threads"
    )


class Fed(NamedTuple):
    """One batch: on the host, on the device, and what continues after it."""

    host: Any
    device: Any
    states: dict[int, Any]  # of the data shards


class Feed:
    """Batches made and sent to the device by a thread, AHEAD of the step; an iterator of `Fed`.

    `batches`: an iterator with get_state(), stats and close(); exceptions in it surface at `next`.
    """

    def __init__(self, batches: Any, layout: Layout):
        self._batches, self._layout = batches, layout
        self._queue: queue.Queue = queue.Queue(AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="feed", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self._closed.is_set():
                host = next(self._batches)
                states = dict(self._batches.get_state())
                self._put(Fed(host, self._layout.place(host), states))
        except BaseException as error:  # whatever it is, the step has to hear of it
            self._put(_of_worker(error) or error)

    def _put(self, item: Any) -> None:
        while not self._closed.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue

    def ready(self) -> bool:
        """Whether `next` would return at once."""
        return not self._queue.empty()

    def __iter__(self) -> Iterator[Fed]:
        return self

    def __next__(self) -> Fed:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    @property
    def stats(self) -> dict[str, Any]:
        """What the pipeline tells of samples and padding so far."""
        return self._batches.stats

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_) -> None:
        """Stops the thread, then the pipeline; a read that hangs holds nobody up for long."""
        self._closed.set()
        self._thread.join(LAST_READ_SECONDS)
        self._batches.close()
