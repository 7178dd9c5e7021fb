"""The base of the builders: examples from independent jobs, which `data.preparing` runs."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from tempo_jax.data.preparation import Limit, Settings, Skipped
from tempo_jax.data.records import FORMAT

# Few enough files that a reader can keep all of them open; many enough to distribute them among hosts, and to
# lose little with one that was interrupted.
JOBS_PER_SHARD, MAX_SHARDS = 16, 512

Results = list[dict[str, Any] | Skipped]


class PreparedBuilder:
    """Jobs, the task that makes examples of one, and the shards that the jobs belong to.

    The shard of a job depends only on the number of jobs: the same source always gives the same files,
    whichever processes write them.
    """

    def __init__(
        self,
        *,
        jobs: Sequence[Any],
        task: Callable[[Any], Results],
        origin: dict[str, Any],
        settings: Settings,
        limit: Limit | None = None,
    ):
        """Makes the builder.

        Args:
          jobs: Arguments of `task`; both are pickled for worker processes.
          task: Function from a job to its examples and skipped samples.
          origin: Where the set comes from, for its metadata.
          settings: How samples are prepared.
          limit: Limit on the length of samples.
        """
        self.jobs, self.task, self.limit = jobs, task, limit
        self.name = type(self).__name__.lower()
        self.metadata = {"format": FORMAT, "origin": origin, "settings": dataclasses.asdict(settings)}

    def shards(self) -> list[range]:
        """Returns the indices of the jobs of each shard."""
        count = len(self.jobs)
        shards = min(MAX_SHARDS, -(-count // JOBS_PER_SHARD))
        ends = [count * (i + 1) // shards for i in range(shards)]
        return [range(start, end) for start, end in zip([0, *ends], ends)]

    def identity(self) -> str:
        """Returns a digest of what is prepared, independent of where source and media are mounted."""
        digest = hashlib.sha256(json.dumps(self.metadata, sort_keys=True).encode())
        limit = None if self.limit is None else (self.limit.most, self.limit.tokenizer is not None)
        digest.update(json.dumps([limit, [len(shard) for shard in self.shards()]]).encode())
        for job in self.jobs:
            digest.update(_identify(job))
        return digest.hexdigest()[:16]


def _identify(job: Any) -> bytes:
    """Returns what identifies a job, without the paths of its files."""
    where, content = getattr(job, "where", ""), getattr(job, "content", job)
    if hasattr(content, "load"):  # a row of a file, read when it is needed
        return f"{where}\0".encode()
    if isinstance(content, bytes):
        return content
    if isinstance(content, str | int):
        return f"{where}\0{content}\0".encode("utf-8", "surrogatepass")
    return f"{where}\0{json.dumps(content, sort_keys=True, default=lambda x: type(x).__name__)}\0".encode()
