"""An evaluation as tasks of an existing Ray cluster: each answers the questions about some of the videos.

A task is what a process with --process=I of --processes=N does: it writes rows and a note of its own below
the workdir, which all hosts must see, as they must the checkpoint and the data, under the same paths. A task
whose process or host is lost is retried elsewhere, and asks only what has no row yet.
"""

import contextlib
import os
from typing import Any

from ml_collections import ConfigDict

from tempo_jax.errors import TryAgain
from tempo_jax.evaluation import rows
from tempo_jax.evaluation.question_runner import pending
from tempo_jax.evaluation.runner import Run
from tempo_jax.evaluation.watch import ProgressReporter
from tempo_jax.utils import command_line, compilation_cache, paths, ray_cluster


class _Tally:
    """An actor that tasks tell of answers, and from which the driver takes them."""

    def __init__(self) -> None:
        self._fresh: list[bool] = []

    def answered(self, right: bool) -> None:
        self._fresh.append(right)

    def take(self) -> list[bool]:
        fresh, self._fresh = self._fresh, []
        return fresh


def ask(run: Run, address: str, tasks: int | None = None) -> None:
    """Answers the pending questions of a run.

    Args:
      run: A run of all videos.
      address: Address of the cluster, as of `ray.init`.
      tasks: How many tasks share the videos; None: as many as run at the same time.

    Raises:
      TempoError: There is no cluster, or a task refuses.
      TryAgain: Answers are missing at the end.
    """
    items = run.items
    todo = len(pending(items, rows.read(run.workdir)))
    with ray_cluster.connected(address) as ray:
        places = ray_cluster.places(ray.nodes())
        videos = len({question.video for question in run.questions})
        tasks = min(tasks or places.count, videos)
        command_line.say(f"eval: {videos} videos in {tasks} tasks, of which {places.count} run at a time.")
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        tally = ray.remote(num_cpus=0, scheduling_strategy=here)(_Tally).remote()
        task = ray.remote(max_retries=ray_cluster.RETRIES, **places.options)(_answer)
        common = (run.config, os.fspath(paths.absolute(run.workdir)), os.getcwd(), compilation_cache.is_off())
        waiting = [task.remote(tally, number, tasks, *common) for number in range(tasks)]
        with contextlib.closing(ProgressReporter(len(items) - todo, len(items), shown=True)) as watch:
            while waiting:
                ready, waiting = ray.wait(waiting, num_returns=1, timeout=ray_cluster.POLL_SECONDS)
                ray.get(ready)
                for right in ray.get(tally.take.remote()):
                    watch.answered(right)
    if left := len(pending(items, rows.read(run.workdir))):
        raise TryAgain(f"{left} answers are missing in {run.workdir}: run the same command again")


def _answer(
    tally: Any, process: int, processes: int, config: ConfigDict, workdir: str, folder: str, no_cache: bool
) -> None:
    """The task; `folder` is the driver's working directory, to which paths are relative."""
    with ray_cluster.folder_of_driver(folder):
        if no_cache:
            compilation_cache.turn_off()
        else:
            compilation_cache.turn_on(command_line.say)
        Run(config, workdir, process, processes).ask(tally.answered.remote)
