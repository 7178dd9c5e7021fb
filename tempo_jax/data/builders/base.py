"""The base of the builders: jobs run in worker processes, their examples are written to shards in order."""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import tensorflow_datasets as tfds

from tempo_jax.data.preparation import BadSample, Limit, Settings, Skipped
from tempo_jax.data.records import FORMAT, SPLIT, EncodedFrames, features
from tempo_jax.errors import TempoError
from tempo_jax.utils.progress import Reporter

# Few enough files that a reader can keep all of them open, many enough to copy them in parallel.
JOBS_PER_SHARD, MAX_SHARDS = 256, 256
JOBS_IN_FLIGHT_PER_WORKER = 4  # so that a long video does not stall the other workers

Results = list[dict[str, Any] | Skipped]


class PreparedBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A builder of examples from independent jobs, which subclasses define.

    It writes shard by shard, since TFDS would otherwise hold the whole set in memory or require TensorFlow.
    The shard of a job depends only on the number of jobs, and their order is kept: the same source always
    gives the same files, with any number of workers.

    Attributes:
      skipped: The samples that could not be used, and why.
      counts: Numbers of prepared samples, frames and bytes, also by kind and frame size.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        jobs: Sequence[Any],
        task: Callable[[Any], Results],
        origin: dict[str, Any],
        settings: Settings,
        limit: Limit | None = None,
        workers: int = 1,
        report: Reporter | None = None,
        file_format: str = "array_record",
        **kwargs: Any,
    ):
        """Makes the builder.

        Args:
          jobs: Arguments of `task`; pickled if workers > 1.
          task: Function from a job to its examples and skipped samples.
          origin: Where the set comes from, for its metadata.
          settings: How samples are prepared.
          limit: Limit on the length of samples.
          workers: Number of worker processes; 1 runs in this one.
          report: Progress reporter.
          file_format: File format of TFDS.
          **kwargs: Arguments of tfds builders.
        """
        self._jobs, self._task, self._workers = jobs, task, workers
        self._limit, self._report = limit, report or Reporter()
        self._metadata = {"format": FORMAT, "origin": origin, "settings": dataclasses.asdict(settings)}
        self.skipped: list[Skipped] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.frame_counts: list[int] = []
        self._digest = hashlib.sha256()  # of samples, not of files, whose layout may change
        super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        metadata = tfds.core.MetadataDict(self._metadata)
        return tfds.core.DatasetInfo(
            builder=self, features=features(), metadata=metadata, disable_shuffling=True
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        self.info.metadata["counts"] = dict(self.counts)
        self.info.metadata["fingerprint"] = self._digest.hexdigest()[:16]

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable]]:
        count = len(self._jobs)
        shards = min(MAX_SHARDS, -(-count // JOBS_PER_SHARD))
        ends = [count * (i + 1) // shards for i in range(shards)]
        outcomes = ordered_parallel_map(self._task, self._jobs, self._workers)
        ranges = zip([0, *ends], ends)
        return {SPLIT: [functools.partial(self._shard, outcomes, start, end) for start, end in ranges]}

    def _shard(self, outcomes: Iterator[Results], start: int, end: int) -> Iterator[tuple[int, dict]]:
        for job in range(start, end):
            for outcome in next(outcomes):
                if not isinstance(outcome, Skipped):
                    outcome = self._within_limit(outcome, job)
                if isinstance(outcome, Skipped):
                    self.skipped.append(outcome)
                    continue
                self._count(outcome)
                yield self.counts["samples"], outcome
                # Already written; TFDS keeps a reference to every example of a shard.
                outcome.clear()
            self._report("preparing", job + 1, len(self._jobs))

    def _within_limit(self, example: dict[str, Any], job: int) -> dict[str, Any] | Skipped:
        try:
            if self._limit is not None:
                self._limit.check(example)
        except BadSample as error:
            where = getattr(self._jobs[job], "where", f"record {job + 1}")
            return Skipped(where, example["id"], error.reason, str(error))
        return example

    def _count(self, example: dict[str, Any]) -> None:
        frames, height, width, _ = EncodedFrames(example["frames"]).shape
        size = sum(map(len, example["frames"]))
        self.frame_counts.append(frames)
        for name in ("id", "kind", "conversations", "fps", "times"):
            self._digest.update(f"{example[name]}\0".encode())
        for frame in example["frames"]:
            self._digest.update(frame)
        self.counts.update(samples=1, frames=frames, bytes=size)
        self.counts[f"kind {example['kind']}"] += 1
        if example["kind"] != "text":  # whose dummy frame does not count
            self.counts[f"size {height}x{width}"] += 1


def ordered_parallel_map(
    task: Callable[[Any], Results], jobs: Sequence[Any], workers: int
) -> Iterator[Results]:
    """Yields task(job) for every job, in order; with several workers, computed in worker processes.

    Raises:
      TempoError: A worker process was killed.
    """
    if workers <= 1:
        yield from map(task, jobs)
        return
    # Spawned, not forked: this process has threads.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_ignore_interrupts)
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(task, job))
            if len(waiting) >= JOBS_IN_FLIGHT_PER_WORKER * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise TempoError(
            "A worker process was killed, probably for lack of memory: use fewer workers (--workers)."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ignores Ctrl-C, which reaches the whole process group; the parent ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
