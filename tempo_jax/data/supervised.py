"""Writes shards in worker processes: a killed one is retried, a job that kills two workers is skipped."""

import collections
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from tempo_jax.data.shard_files import Recipe, Shard
from tempo_jax.data.shard_worker import AT, DONE, FAILED
from tempo_jax.errors import TempoError

DEATHS = 2  # at the same job, after which it is skipped
STARTS = 3  # of workers that die before their first job


class _Worker:
    """One worker process and its current shard."""

    def __init__(self, recipe: Recipe):
        self.connection, theirs = Pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tempo_jax.data.shard_worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        finally:
            theirs.close()
        self.shard: Shard | None = None
        self.path, self.at, self.ready = Path(), -1, False
        self._send(recipe)

    def give(self, shard: Shard, path: Path) -> None:
        self.shard, self.path, self.at = shard, path, -1
        self._send((str(path), shard))

    def _send(self, what: Any) -> None:
        with contextlib.suppress(OSError):  # it is dead: the connection says so when it is read
            self.connection.send(what)

    def kill(self) -> None:
        """Kills the process; its unfinished file is discarded."""
        self._process.kill()

    def end(self) -> int:
        """Ends the process and returns its exit code."""
        self.connection.close()
        try:
            return self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def write(
    recipe: Recipe,
    shards: Sequence[Shard],
    place: Callable[[int], Path],
    workers: int,
    progress: Callable[[int], None] = lambda jobs: None,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Writes shards in processes of their own; yields (file, record) as each is finished.

    Args:
      recipe: turns jobs into examples.
      shards: the shards to write.
      place: returns the path of the file for a shard's index; overwritten.
      workers: number of processes.
      progress: called with the number of jobs that were started.

    Raises:
      TempoError: a file cannot be written, or workers die before their first job.
    """
    todo = collections.deque(shards)
    deaths: collections.Counter[int] = collections.Counter()
    failed_starts = 0
    running: dict[Connection, _Worker] = {}
    try:
        while todo or any(worker.shard for worker in running.values()):
            while len(running) < min(workers, len(todo) + sum(w.shard is not None for w in running.values())):
                worker = _Worker(recipe)
                running[worker.connection] = worker
            for worker in running.values():
                if worker.shard is None and todo:
                    shard = todo.popleft()
                    worker.give(shard, place(shard.number))
            for connection in wait(list(running)):
                worker = running[connection]
                try:
                    kind, what = connection.recv()
                except (EOFError, OSError):
                    del running[connection]
                    code = worker.end()
                    if worker.shard is not None:
                        failed_starts = failed_starts + 1 if worker.at < 0 else 0
                        todo.appendleft(_again(worker, deaths))
                    if failed_starts >= STARTS:
                        raise TempoError(
                            f"processes that prepare end at once (exit code {code}), probably for lack of "
                            "memory: use fewer workers (--workers)"
                        ) from None
                    continue
                if kind == AT:
                    worker.at = what
                    progress(1)
                elif kind == FAILED:
                    raise TempoError(what)
                elif kind == DONE:
                    path, worker.shard, failed_starts = worker.path, None, 0
                    yield path, what
    finally:
        for worker in running.values():
            worker.kill()
        for worker in running.values():
            worker.end()


def _again(worker: _Worker, deaths: collections.Counter[int]) -> Shard:
    """Returns the shard of a dead worker, without a job that has killed DEATHS workers."""
    shard = worker.shard
    if worker.at < 0:
        return shard
    deaths[worker.at] += 1
    jobs = range(shard.first, shard.first + len(shard.jobs))
    poison = {job for job in jobs if deaths[job] >= DEATHS}
    return Shard(shard.number, shard.first, shard.jobs, frozenset(poison))
