"""What is to be prepared, as independent jobs; a subclass says which. `data.preparing` does it."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from tempo_jax.data.preparation import Limit, Settings, Skipped
from tempo_jax.data.records import FORMAT

# Few enough that a reader may keep all of a set's files open; many enough to share them out among hosts, and
# that little is lost with one that was interrupted.
JOBS_PER_SHARD, MOST_SHARDS = 16, 512

Outcomes = list[dict[str, Any] | Skipped]


class Preparing:
    """Jobs, what makes examples of one, and how they are shared out among shards.

    Which jobs are in a shard depends on their number alone, so the same source always makes the same files,
    whoever makes them.
    """

    def __init__(
        self,
        *,
        jobs: Sequence[Any],
        task: Callable[[Any], Outcomes],
        origin: dict[str, Any],
        settings: Settings,
        limit: Limit | None = None,
    ):
        """`jobs`: each goes to `task`, in another process (both are then pickled).

        `origin`: where the set comes from, for its metadata.
        """
        self.jobs, self.task, self.limit = jobs, task, limit
        self.name = type(self).__name__.lower()
        self.metadata = {"format": FORMAT, "origin": origin, "settings": dataclasses.asdict(settings)}

    def shards(self) -> list[range]:
        """The numbers of the jobs of each."""
        count = len(self.jobs)
        shards = min(MOST_SHARDS, -(-count // JOBS_PER_SHARD))
        ends = [count * (i + 1) // shards for i in range(shards)]
        return [range(start, end) for start, end in zip([0, *ends], ends)]

    def identity(self) -> str:
        """The same where the same would be prepared, wherever source and media are mounted."""
        digest = hashlib.sha256(json.dumps(self.metadata, sort_keys=True).encode())
        limit = None if self.limit is None else (self.limit.most, self.limit.tokenizer is not None)
        digest.update(json.dumps([limit, [len(shard) for shard in self.shards()]]).encode())
        for job in self.jobs:
            digest.update(_told(job))
        return digest.hexdigest()[:16]


def _told(job: Any) -> bytes:
    """What a job is, without where its files are."""
    where, content = getattr(job, "where", ""), getattr(job, "content", job)
    if hasattr(content, "load"):  # a row of a file, read when it is needed
        return f"{where}\0".encode()
    if isinstance(content, bytes):
        return content
    if isinstance(content, str | int):
        return f"{where}\0{content}\0".encode("utf-8", "surrogatepass")
    return f"{where}\0{json.dumps(content, sort_keys=True, default=lambda x: type(x).__name__)}\0".encode()
