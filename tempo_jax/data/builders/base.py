"""What the builders share: jobs go through worker processes, and their examples into shards in order."""

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

from tempo_jax import signals
from tempo_jax.data.preparation import BadSample, Limit, Settings, Skipped
from tempo_jax.data.records import FORMAT, SPLIT, EncodedFrames, features
from tempo_jax.errors import TempoError
from tempo_jax.progress import Reporter

# Few enough that a reader may keep all of a set's files open, many enough to copy them in parallel.
JOBS_PER_SHARD, MOST_SHARDS = 256, 256
AHEAD = 4  # jobs under way per worker, so that a long video stops nobody

Outcomes = list[dict[str, Any] | Skipped]


class Preparing(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A builder of examples from independent jobs; subclasses say which.

    Shard by shard, as TFDS would otherwise hold the whole set in memory or, from a gigabyte on, ask for
    TensorFlow. Which jobs share a shard depends on their number alone, and their order is kept: the same
    source always makes the same files, however many workers there are.

    `skipped`: what could not be used and why; `counts`: of what could, by kind, frame size and so on.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        jobs: Sequence[Any],
        task: Callable[[Any], Outcomes],
        origin: dict[str, Any],
        settings: Settings,
        limit: Limit | None = None,
        workers: int = 1,
        report: Reporter | None = None,
        file_format: str = "array_record",
        **kwargs: Any,
    ):
        """`jobs`: each goes to `task`, in a worker process if workers > 1 (both are then pickled).

        `origin`: where the set comes from, for its metadata. `kwargs`: those of tfds builders.
        """
        self._jobs, self._task, self._workers = jobs, task, workers
        self._limit, self._report = limit, report or Reporter()
        self._metadata = {"format": FORMAT, "origin": origin, "settings": dataclasses.asdict(settings)}
        self.skipped: list[Skipped] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.frame_counts: list[int] = []
        self._digest = hashlib.sha256()  # of the samples, not of files, in which they may be packed otherwise
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
        shards = min(MOST_SHARDS, -(-count // JOBS_PER_SHARD))
        ends = [count * (i + 1) // shards for i in range(shards)]
        outcomes = in_order(self._task, self._jobs, self._workers)
        ranges = zip([0, *ends], ends)
        return {SPLIT: [functools.partial(self._shard, outcomes, start, end) for start, end in ranges]}

    def _shard(self, outcomes: Iterator[Outcomes], start: int, end: int) -> Iterator[tuple[int, dict]]:
        for job in range(start, end):
            for outcome in next(outcomes):
                if not isinstance(outcome, Skipped):
                    outcome = self._within_limit(outcome, job)
                if isinstance(outcome, Skipped):
                    self.skipped.append(outcome)
                    continue
                self._count(outcome)
                yield self.counts["samples"], outcome
                # It has been written: TFDS keeps every example of a shard, to count them at its end.
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
        if example["kind"] != "text":  # whose stand-in for a picture nobody looks at
            self.counts[f"size {height}x{width}"] += 1


def in_order(task: Callable[[Any], Outcomes], jobs: Sequence[Any], workers: int) -> Iterator[Outcomes]:
    """task(job) for every job, in order; with several workers, in processes of their own.

    Raises TempoError when one of them is killed.
    """
    if workers <= 1:
        yield from map(task, jobs)
        return
    # Not forked: this process has threads, of jax if of nothing else.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_leave_interrupts)
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
        for job in jobs:
            with signals.held():  # it may start a process, which half-started would end with a traceback
                waiting.append(pool.submit(task, job))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise TempoError(
            "A worker process was killed, probably for lack of memory: use fewer workers (--workers)."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    """Ctrl-C reaches the whole group; the first process ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
