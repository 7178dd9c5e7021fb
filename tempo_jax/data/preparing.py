"""Who prepares which shards: processes of this host, one of several hosts, or the tasks of a Ray cluster.

They share nothing but the folder of the set: what is there is not made again, so any of them may be killed.
"""

import os
from collections.abc import Sequence

from tempo_jax.data.builders import PreparedBuilder
from tempo_jax.data.prepared_set import Unfinished, opened
from tempo_jax.data.shard_files import Recipe, Shard, write
from tempo_jax.data.supervised import write as write_supervised
from tempo_jax.errors import TempoError, TryAgain
from tempo_jax.utils import paths
from tempo_jax.utils.progress import Reporter

RAY_RETRIES = 5  # of a task whose host vanished
MOST_OF_A_TASK = 8  # shards
RAY_EXTRA = "pip install -e '.[ray]'"


def shards_of(preparing: PreparedBuilder, host: int = 0, hosts: int = 1) -> list[Shard]:
    """Those that are a host's, every hosts-th."""
    found = [
        Shard(number, jobs.start, [preparing.jobs[job] for job in jobs])
        for number, jobs in enumerate(preparing.shards())
    ]
    return found[host::hosts]


def missing(unfinished: Unfinished, shards: Sequence[Shard]) -> tuple[list[Shard], int]:
    """What is not there yet, and how many jobs are."""
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
    """Makes what is missing with processes of this host; workers 0: in this one."""
    left, done = missing(unfinished, shards)
    total = done + sum(len(shard.jobs) for shard in left)
    recipe = Recipe(preparing.task, preparing.limit)

    def begun(jobs: int) -> None:
        nonlocal done
        report("preparing", min(done, total), total)
        done += jobs

    if workers == 0:
        for shard in left:
            path = unfinished.place(shard.number)
            unfinished.put(path, write(path, recipe, shard, lambda job: begun(1)))
        return
    for path, note in write_supervised(recipe, left, unfinished.place, workers, begun):
        unfinished.put(path, note)


def on_ray(
    preparing: PreparedBuilder,
    unfinished: Unfinished,
    shards: Sequence[Shard],
    address: str,
    report: Reporter,
) -> None:
    """Makes what is missing as tasks of a Ray cluster; they see the folder and the media."""
    try:
        import ray
    except ImportError as error:
        raise TempoError(f"--ray needs Ray, which is not installed: {RAY_EXTRA}") from error
    from ray import exceptions

    left, done = missing(unfinished, shards)
    if not left:
        return
    total = done + sum(len(shard.jobs) for shard in left)
    try:
        ray.init(
            address,
            log_to_driver=False,
            include_dashboard=False if address == "local" else None,
        )
    except (ConnectionError, ValueError, RuntimeError, TimeoutError, exceptions.RayError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise TempoError(f"--ray={address}: no Ray cluster answers there ({reason})") from error
    try:
        recipe = ray.put(Recipe(preparing.task, preparing.limit))
        task = ray.remote(num_cpus=1, max_retries=RAY_RETRIES)(_shards_on_ray)
        sizes, folder = {}, os.fspath(unfinished.folder)
        # A task starts a process, which takes a second or two: several shards each, where there are many.
        some = min(MOST_OF_A_TASK, max(1, len(left) // (4 * int(ray.cluster_resources().get("CPU", 1)) or 1)))
        for group in (left[start : start + some] for start in range(0, len(left), some)):
            reference = task.remote(recipe, group, folder, preparing.name, unfinished.shards)
            sizes[reference] = sum(len(shard.jobs) for shard in group)
        waiting = list(sizes)
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=2.0)
            for reference in ready:
                ray.get(reference)
                done += sizes[reference]
            report("preparing", done, total)
    except exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, TempoError) else None
        raise cause or error from error
    except exceptions.RayError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise TryAgain(f"the Ray cluster lost a task ({reason}): run the same command again") from error
    finally:
        ray.shutdown()


def _shards_on_ray(recipe: Recipe, shards: Sequence[Shard], folder: str, name: str, count: int) -> None:
    """A task: the decoding is done by a process of its own, whose death names the video that was its end."""
    with opened(paths.path("the target", folder), name, count) as unfinished:
        left, _ = missing(unfinished, shards)
        for path, note in write_supervised(recipe, left, unfinished.place, 1):
            unfinished.put(path, note)
