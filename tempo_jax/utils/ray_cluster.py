"""Tasks of a Ray cluster (the extra "ray"): the connection, what a task takes, and errors in one line."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tempo_jax.errors import TempoError, TryAgain

EXTRA = "pip install -e '.[ray]'"
RETRIES = 5  # of a task whose process or host was lost
POLL_SECONDS = 2.0
ACCELERATORS = ("TPU", "GPU")  # Ray's names; a task takes all TPU chips of a host, or one GPU


@dataclasses.dataclass(frozen=True)
class Places:
    """Where tasks that each run a model fit.

    Attributes:
      count: How many run at the same time.
      options: What one of them takes, as options of `ray.remote`.
    """

    count: int
    options: Mapping[str, Any]


def places(nodes: Sequence[Mapping[str, Any]]) -> Places:
    """Returns the places of a cluster: hosts with TPUs; without, GPUs; without either, hosts."""
    found = [node["Resources"] for node in nodes if node.get("Alive")]
    for name in ACCELERATORS:
        counts = [int(resources[name]) for resources in found if resources.get(name, 0) >= 1]
        if counts and name == "TPU":
            return Places(len(counts), {"num_cpus": 1, "resources": {name: min(counts)}})
        if counts:
            return Places(sum(counts), {"num_cpus": 1, "num_gpus": 1})
    hosts = sum(resources.get("CPU", 0) >= 1 for resources in found)
    return Places(max(1, hosts), {"num_cpus": 1, "scheduling_strategy": "SPREAD"})


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Yields the module `ray`, connected to the cluster at an address ("local": one of this machine).

    Raises:
      TempoError: Ray is not installed or no cluster answers; or the TempoError of a task.
      TryAgain: The cluster lost a task more often than RETRIES.
    """
    try:
        import ray
    except ImportError as error:
        raise TempoError(f"--ray needs Ray, which is not installed: {EXTRA}") from error
    from ray import exceptions

    try:
        ray.init(address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError, exceptions.RayError) as error:
        raise TempoError(f"--ray={address}: no Ray cluster answers there ({_line(error)})") from error
    try:
        yield ray
    except exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, TempoError) else None
        raise cause or error from error
    except exceptions.RayError as error:
        raise TryAgain(f"the Ray cluster lost a task ({_line(error)}): rerun the same command") from error
    finally:
        ray.shutdown()


@contextlib.contextmanager
def folder_of_driver(folder: str) -> Iterator[None]:
    """A task's working directory is the driver's, where its host has it, for relative paths."""
    with contextlib.chdir(folder) if os.path.isdir(folder) else contextlib.nullcontext():
        yield


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
