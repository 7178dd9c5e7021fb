"""Distributes shards over processes of this host, several hosts, or tasks of a Ray cluster.

They share only the folder of the set. Finished shards are not made again, so any worker may be killed.
"""

import os
from collections.abc import Sequence

from tempo_jax.data.builders import PreparedBuilder
from tempo_jax.data.prepared_set import Unfinished, opened
from tempo_jax.data.shard_files import Recipe, Shard, write
from tempo_jax.data.supervised import write as write_supervised
from tempo_jax.utils import paths, ray_cluster
from tempo_jax.utils.progress import Reporter

MAX_TASK_SHARDS = 8


def shards_of(preparing: PreparedBuilder, host: int = 0, hosts: int = 1) -> list[Shard]:
    """Returns the shards of one host: every hosts-th."""
    found = [
        Shard(number, jobs.start, [preparing.jobs[job] for job in jobs])
        for number, jobs in enumerate(preparing.shards())
    ]
    return found[host::hosts]


def missing(unfinished: Unfinished, shards: Sequence[Shard]) -> tuple[list[Shard], int]:
    """Returns the unfinished shards, and the number of jobs in finished ones."""
    have = unfinished.have()
    left = [shard for shard in shards if shard.number not in have]
    return left, sum(len(shard.jobs) for shard in shards) - sum(len(shard.jobs) for shard in left)


def here(
    preparing: PreparedBuilder,
    unfinished: Unfinished,
    shards: Sequence[Shard],
    workers: int,
    report: Reporter,
) -> None:
    """Writes missing shards with worker processes of this host; workers 0: in this process."""
    left, done = missing(unfinished, shards)
    total = done + sum(len(shard.jobs) for shard in left)
    recipe = Recipe(preparing.task, preparing.limit)

    def on_start(jobs: int) -> None:
        nonlocal done
        report("preparing", min(done, total), total)
        done += jobs

    if workers == 0:
        for shard in left:
            path = unfinished.place(shard.number)
            unfinished.put(path, write(path, recipe, shard, lambda job: on_start(1)))
        return
    for path, note in write_supervised(recipe, left, unfinished.place, workers, on_start):
        unfinished.put(path, note)


def on_ray(
    preparing: PreparedBuilder,
    unfinished: Unfinished,
    shards: Sequence[Shard],
    address: str,
    report: Reporter,
) -> None:
    """Writes missing shards as tasks of a Ray cluster, whose hosts must see the folder and the media."""
    left, done = missing(unfinished, shards)
    if not left:
        return
    total = done + sum(len(shard.jobs) for shard in left)
    with ray_cluster.connected(address) as ray:
        recipe = ray.put(Recipe(preparing.task, preparing.limit))
        task = ray.remote(num_cpus=1, max_retries=ray_cluster.RETRIES)(_shards_on_ray)
        sizes, folder = {}, os.fspath(unfinished.folder)
        # Starting a process takes a second or two, so a task makes several shards where there are many.
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        size = min(MAX_TASK_SHARDS, max(1, len(left) // (4 * cpus)))
        for group in (left[start : start + size] for start in range(0, len(left), size)):
            reference = task.remote(recipe, group, folder, preparing.name, unfinished.shards)
            sizes[reference] = sum(len(shard.jobs) for shard in group)
        waiting = list(sizes)
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=ray_cluster.POLL_SECONDS)
            for reference in ready:
                ray.get(reference)
                done += sizes[reference]
            report("preparing", done, total)


def _shards_on_ray(recipe: Recipe, shards: Sequence[Shard], folder: str, name: str, count: int) -> None:
    """Ray task: decodes in a child process, so that a video that kills it can be named."""
    with opened(paths.path("the target", folder), name, count) as unfinished:
        left, _ = missing(unfinished, shards)
        for path, note in write_supervised(recipe, left, unfinished.place, 1):
            unfinished.put(path, note)
