"""One shard of a prepared set: makes examples from its jobs and writes its file and record.

The bytes of the file depend on the jobs alone, not on the process or host that writes it.
"""

import collections
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from tempo_jax.data.preparation import BadSample, Limit, Skipped
from tempo_jax.data.records import EncodedFrames, features

KILLED = "killed the process"  # the reason of a skipped sample


@dataclasses.dataclass(frozen=True)
class Shard:
    """The work of one shard; can be pickled to another process or host.

    Attributes:
      number: Index of the shard.
      first: Index of jobs[0] among all jobs of the set.
      jobs: Its jobs.
      poison: Indices of jobs that are skipped because they killed their worker.
    """

    number: int
    first: int
    jobs: Sequence[Any]
    poison: Collection[int] = ()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Turns jobs into examples; the same for all shards."""

    task: Callable[[Any], list[dict[str, Any] | Skipped]]
    limit: Limit | None = None


def write(path: Path, recipe: Recipe, shard: Shard, on_start: Callable[[int], None]) -> dict[str, Any]:
    """Writes the file of a shard and returns its record; on_start(number) is called before each job."""
    from array_record.python.array_record_module import ArrayRecordWriter

    counts: collections.Counter[str] = collections.Counter()
    skipped, frame_counts, digest = [], [], hashlib.sha256()
    writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
    try:
        for outcome in _outcomes(recipe, shard, on_start):
            if isinstance(outcome, Skipped):
                skipped.append(dataclasses.asdict(outcome))
                continue
            frame_counts.append(_count(outcome, counts))
            _take(outcome, digest)
            writer.write(_serialized(outcome))
    finally:
        writer.close()
    return {
        "shard": shard.number,
        "jobs": [shard.first, shard.first + len(shard.jobs)],
        "samples": counts["samples"],
        "bytes": path.stat().st_size,
        "sha256": _of_file(path),
        "fingerprint": digest.hexdigest(),  # of the samples, which files may pack otherwise
        "counts": dict(sorted(counts.items())),
        "frame_counts": frame_counts,
        "skipped": skipped,
    }


def _outcomes(
    recipe: Recipe, shard: Shard, on_start: Callable[[int], None]
) -> Iterator[dict[str, Any] | Skipped]:
    for number, job in enumerate(shard.jobs, start=shard.first):
        on_start(number)
        where = getattr(job, "where", f"record {number + 1}")
        if number in shard.poison:
            message = "the process that decoded it was killed, and again when it was tried once more"
            yield Skipped(where, _id_of(job), KILLED, message)
            continue
        for outcome in recipe.task(job):
            if not isinstance(outcome, Skipped) and recipe.limit is not None:
                try:
                    recipe.limit.check(outcome)
                except BadSample as error:
                    outcome = Skipped(where, outcome["id"], error.reason, str(error))
            yield outcome


def _id_of(job: Any) -> str:
    """The record's own name, where reading the record alone tells it."""
    from tempo_jax.data.readers import json_files
    from tempo_jax.data.readers.record import id_of

    try:
        content = job.content
        return id_of(json_files.parsed(content.load() if hasattr(content, "load") else content))
    except Exception:
        return ""


def _count(example: dict[str, Any], counts: collections.Counter[str]) -> int:
    frames, height, width, _ = EncodedFrames(example["frames"]).shape
    counts.update(samples=1, frames=frames, bytes=sum(map(len, example["frames"])))
    counts[f"kind {example['kind']}"] += 1
    if example["kind"] != "text":  # whose image is a placeholder
        counts[f"size {height}x{width}"] += 1
    return frames


def _take(example: dict[str, Any], digest: Any) -> None:
    for name in ("id", "kind", "conversations", "fps", "times"):
        digest.update(f"{example[name]}\0".encode())
    for frame in example["frames"]:
        digest.update(frame)


@functools.cache
def _serializer() -> Any:
    from tensorflow_datasets.core import example_serializer

    return example_serializer.ExampleSerializer(features().get_serialized_info())


def _serialized(example: dict[str, Any]) -> bytes:
    """As TFDS does, with the entries of protobuf's maps in the same order everywhere."""
    found = _serializer().get_tf_example(features().encode_example(example))
    return found.SerializeToString(deterministic=True)


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
