"""Global batches on a mesh: which data shards a process builds, and a thread that prefetches batches."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from tempo_jax import sharding
from tempo_jax.data.buckets import make_buckets
from tempo_jax.errors import TryAgain
from tempo_jax.tasks import TASKS
from tempo_jax.training.step import batch_specs

PREFETCH_DEPTH = 2  # batches that are ready on the device
LAST_READ_SECONDS = 20.0  # to wait for the batch in progress when a run ends


def assign_shards(row_ranges: Iterable[tuple[int, int, int]], per_shard: int) -> dict[int, set[int]]:
    """Finds the data shards that each process has to build.

    Four shards of two rows on two processes that hold half of the rows each:
    `assign_shards([(0, 0, 4), (1, 4, 8)], per_shard=2)` is `{0: {0, 1}, 1: {2, 3}}`.

    Args:
      row_ranges: (process, first row, end) of the rows of the global batch on each device.
      per_shard: Number of rows of one data shard.

    Returns:
      {process: shards with at least one row on its devices}.
    """
    assignment: dict[int, set[int]] = {}
    for process, start, stop in row_ranges:
        shards = range(start // per_shard, -(-stop // per_shard))
        assignment.setdefault(process, set()).update(shards)
    return assignment


class BatchSharding:
    """How a global batch of `config.batch.shards` data shards lies on a mesh.

    Leaves are [micro-batches, shards x rows of a shard, ...]; rows are sharded over data x fsdp, or over
    fewer axes where the numbers are not divisible.

    Attributes:
      shards: Data shards that this process builds, ascending.
      owned: Those of them that this process writes to checkpoints, so that each is written once.
      undivided_rows: Numbers of rows that are not divisible by the devices that share them.
    """

    def __init__(self, config: ConfigDict, mesh: jax.sharding.Mesh):
        self.mesh, self.count = mesh, config.batch.shards
        self.specs = batch_specs(TASKS[config.task])
        segments = max(1, config.batch.segments)
        rows_of_a_shard = {segments, config.batch.sequences}
        for bucket in make_buckets(config.batch):  # steps of other sizes
            rows_of_a_shard |= {max(1, bucket.segments), bucket.sequences}
        assignment: dict[int, set[int]] = {}
        self.undivided_rows: list[int] = []
        for per_shard in rows_of_a_shard:
            rows = self.count * per_shard
            placement = jax.NamedSharding(mesh, sharding.partition_spec(("batch",), (rows,), mesh))
            if rows // placement.shard_shape((rows,))[0] < mesh.shape["data"] * mesh.shape["fsdp"]:
                self.undivided_rows.append(rows)
            row_ranges = (
                (device.process_index, *index.indices(rows)[:2])
                for device, (index,) in placement.devices_indices_map((rows,)).items()
            )
            for process, shards in assign_shards(row_ranges, per_shard).items():
                assignment.setdefault(process, set()).update(shards)
        # The vision encoder shards frames over all devices.
        has_frames = "frames_PFHWC" in TASKS[config.task].batch._fields
        frame_rows = self.count * segments
        if has_frames and frame_rows % mesh.size and frame_rows not in self.undivided_rows:
            self.undivided_rows.append(frame_rows)
        process = jax.process_index()
        self.shards = sorted(assignment[process])
        writers = {s: min(p for p, shards in assignment.items() if s in shards) for s in self.shards}
        self.owned = [shard for shard in self.shards if writers[shard] == process]

    def place(self, batch: Any) -> Any:
        """Returns the global device arrays of a host batch that holds this process's shards."""
        return jax.tree.map(self._place, batch, self.specs)

    def _place(self, local: np.ndarray, spec: jax.P) -> jax.Array:
        axis = next(i for i, part in enumerate(spec) if part)
        per_shard = local.shape[axis] // len(self.shards)
        shape = list(local.shape)
        shape[axis] = per_shard * self.count
        names = ["none"] * len(shape)
        names[axis] = "batch"
        placement = jax.NamedSharding(self.mesh, sharding.partition_spec(names, shape, self.mesh))

        def rows(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[axis].indices(shape[axis])
            first = self.shards.index(start // per_shard) * per_shard + start % per_shard
            return local[(*index[:axis], slice(first, first + stop - start))]

        return jax.make_array_from_callback(tuple(shape), placement, rows)


def _worker_error(error: BaseException) -> TryAgain | None:
    """Recognizes a data worker process that has died, which grain reports as text only."""
    if not isinstance(error, RuntimeError) or "Worker process was terminated" not in str(error):
        return None
    code = str(error).partition("exit code ")[2].split(".")[0]
    return TryAgain(
        f"a process that reads data ended with exit code {code} (-9: killed, as for want of memory): run the "
        "same command again, or with config.data.workers=0 or fewer config.data.threads"
    )


class PrefetchedBatch(NamedTuple):
    """One batch on the host and on the device, with the state of the data after it."""

    host: Any
    device: Any
    states: dict[int, Any]  # of the data shards


class DevicePrefetcher:
    """An iterator of PrefetchedBatch whose thread stays PREFETCH_DEPTH batches ahead of the step.

    Args:
      batches: An iterator with get_state(), stats and close(); its exceptions surface at `next`.
      layout: How its batches lie on the mesh.
    """

    def __init__(self, batches: Any, layout: BatchSharding):
        self._batches, self._layout = batches, layout
        self._queue: queue.Queue = queue.Queue(PREFETCH_DEPTH)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="feed", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self._closed.is_set():
                host = next(self._batches)
                states = dict(self._batches.get_state())
                self._put(PrefetchedBatch(host, self._layout.place(host), states))
        except BaseException as error:  # of any kind: the step has to raise it
            self._put(_worker_error(error) or error)

    def _put(self, item: Any) -> None:
        while not self._closed.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue

    def ready(self) -> bool:
        """Returns whether `next` would return at once."""
        return not self._queue.empty()

    def __iter__(self) -> Iterator[PrefetchedBatch]:
        return self

    def __next__(self) -> PrefetchedBatch:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    @property
    def stats(self) -> dict[str, Any]:
        """Statistics of the pipeline: samples, skipped samples and padding so far."""
        return self._batches.stats

    def __enter__(self) -> "DevicePrefetcher":
        return self

    def __exit__(self, *_) -> None:
        """Stops the thread, then the pipeline, waiting at most LAST_READ_SECONDS for a read that hangs."""
        self._closed.set()
        self._thread.join(LAST_READ_SECONDS)
        self._batches.close()
