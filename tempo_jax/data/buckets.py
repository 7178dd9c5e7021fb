"""Length buckets: batches of several static shapes, so that short videos do not fill a long video's pool.

A bucket has room for so many clips a conversation. The longest ones have a pool of one conversation; of
shorter ones several share the pool, in more rows than would fit if each were as long as may be, so that a
window of samples fills it. Every step has one bucket, on all shards: a cycle that follows from the data.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from tempo_jax.data.batch_packing import Shape
from tempo_jax.errors import TempoError

# Rows there are for each that a full pool of longest conversations takes: with fewer, rows run out before the
# pool is full (padding of 17 % where 2 gives 14 %: benchmarks/xcomp_buckets.py).
SLACK = 2
CYCLE = 256  # steps


@dataclasses.dataclass(frozen=True)
class Bucket:
    """One shape of a shard's micro-batch. room: clips of one conversation; pool: of all of them."""

    room: int
    pool: int
    conversations: int

    def shape(self, shape: Shape) -> Shape:
        """The same with this bucket's sizes."""
        sizes = {"room": self.room, "pool": self.pool, "conversations": self.conversations}
        return dataclasses.replace(shape, **sizes)


def buckets_of(batch: Any) -> tuple[Bucket, ...]:
    """Those of a config's `batch`, the smallest first; one alone where it names none.

    TempoError where batch.buckets does not go up to batch.pool.
    """
    pool, rows = batch.pool, batch.conversations
    rooms = tuple(batch.get("buckets", ()))
    if not rooms:
        return (Bucket(pool, pool, rows),)
    whole = all(isinstance(room, int) and not isinstance(room, bool) and room > 0 for room in rooms)
    if not whole or list(rooms) != sorted(set(rooms)) or rooms[-1] != pool:
        raise TempoError(
            f"config.batch.buckets is {rooms}: give numbers of clips in ascending order, the last one that "
            f"of config.batch.pool ({pool})."
        )
    return tuple(_bucket(room, pool, rows) for room in rooms)


def _bucket(room: int, pool: int, rows: int) -> Bucket:
    if 2 * room > pool:  # no two of them fit
        return Bucket(room, room, rows)
    return Bucket(room, pool, rows * math.ceil(SLACK * pool / room))


def bucket_of(segments: int, buckets: Sequence[Bucket]) -> int | None:
    """The number of the smallest bucket that has room; None where none has."""
    return next((number for number, bucket in enumerate(buckets) if segments <= bucket.room), None)


def cycle(buckets: Sequence[Bucket], clips: Sequence[tuple[int, float]]) -> tuple[int, ...]:
    """Which bucket each step takes, round and round: often enough that all lengths are used alike.

    Args:
      buckets: of the batch.
      clips: (clips of a sample, its weight) for samples as the mixture has them.

    Returns:
      Numbers of buckets; those that no sample is in are left out.
    """
    weights, totals = [0.0] * len(buckets), [0.0] * len(buckets)
    for segments, weight in clips:
        if (number := bucket_of(segments, buckets)) is not None:
            weights[number] += weight
            totals[number] += weight * segments
    batches = {}  # how many are needed for all samples
    for number, bucket in enumerate(buckets):
        if weights[number]:
            mean = max(totals[number] / weights[number], 1e-9)
            batches[number] = weights[number] / min(bucket.conversations, max(1.0, bucket.pool / mean))
    if not batches:
        return (len(buckets) - 1,)
    whole = sum(batches.values())
    steps = {number: max(1, round(CYCLE * share / whole)) for number, share in batches.items()}
    if len(steps) == 1:
        return tuple(steps)
    # Each bucket's steps evenly among the others'.
    places = [((k + 0.5) / count, number) for number, count in steps.items() for k in range(count)]
    return tuple(number for _, number in sorted(places))
