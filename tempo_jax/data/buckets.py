"""Length buckets: batches of several static shapes, so that short videos are not padded to long ones.

A bucket bounds the clips of a conversation. Conversations of the longest bucket have the clip buffer to
themselves; shorter ones share it, in more rows than fit at full length, so that a window of samples fills it.
All shards use the same bucket in a step: a cycle that follows from the data.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from tempo_jax.data.batch_packing import BatchShape
from tempo_jax.errors import TempoError

# Rows for each one that a full buffer of longest conversations needs: with fewer, rows run out before the
# buffer is full (padding of 17 % instead of 14 %: benchmarks/xcomp_buckets.py).
ROW_OVERCOMMIT = 2
CYCLE_STEPS = 256


@dataclasses.dataclass(frozen=True)
class Bucket:
    """One shape of a micro-batch: clips of one conversation, clips of the buffer, and rows."""

    max_sample_segments: int
    segments: int
    sequences: int

    def shape(self, shape: BatchShape) -> BatchShape:
        """Returns a shape with the sizes of this bucket."""
        sizes = {
            "max_sample_segments": self.max_sample_segments,
            "segments": self.segments,
            "sequences": self.sequences,
        }
        return dataclasses.replace(shape, **sizes)


def make_buckets(batch: Any) -> tuple[Bucket, ...]:
    """Makes the buckets of a config's `batch`, the smallest first; a single one where it names none.

    Raises:
      TempoError: `batch.buckets` is not an ascending list that ends at `batch.segments`.
    """
    pool, rows = batch.segments, batch.sequences
    rooms = tuple(batch.get("buckets", ()))
    if not rooms:
        return (Bucket(pool, pool, rows),)
    whole = all(isinstance(room, int) and not isinstance(room, bool) and room > 0 for room in rooms)
    if not whole or list(rooms) != sorted(set(rooms)) or rooms[-1] != pool:
        raise TempoError(
            f"config.batch.buckets is {rooms}: give numbers of clips in ascending order, the last one that "
            f"of config.batch.segments ({pool})."
        )
    return tuple(_bucket(room, pool, rows) for room in rooms)


def _bucket(room: int, pool: int, rows: int) -> Bucket:
    if 2 * room > pool:  # no two of them fit
        return Bucket(room, room, rows)
    return Bucket(room, pool, rows * math.ceil(ROW_OVERCOMMIT * pool / room))


def pick_bucket(segments: int, buckets: Sequence[Bucket]) -> int | None:
    """Returns the index of the smallest bucket that fits, or None."""
    return next(
        (number for number, bucket in enumerate(buckets) if segments <= bucket.max_sample_segments), None
    )


def cycle(buckets: Sequence[Bucket], clips: Sequence[tuple[int, float]]) -> tuple[int, ...]:
    """Makes the cycle of buckets, in which every bucket is as frequent as its share of the data requires.

    Args:
      buckets: The buckets of the batch.
      clips: (clips of a sample, its weight) of samples of the mixture.

    Returns:
      Indices of buckets, step after step; buckets without samples are left out.
    """
    weights, totals = [0.0] * len(buckets), [0.0] * len(buckets)
    for segments, weight in clips:
        if (number := pick_bucket(segments, buckets)) is not None:
            weights[number] += weight
            totals[number] += weight * segments
    batches = {}  # number of batches that all samples fill
    for number, bucket in enumerate(buckets):
        if weights[number]:
            mean = max(totals[number] / weights[number], 1e-9)
            batches[number] = weights[number] / min(bucket.sequences, max(1.0, bucket.segments / mean))
    if not batches:
        return (len(buckets) - 1,)
    whole = sum(batches.values())
    steps = {number: max(1, round(CYCLE_STEPS * share / whole)) for number, share in batches.items()}
    if len(steps) == 1:
        return tuple(steps)
    # The steps of each bucket are evenly spaced.
    positions = [((k + 0.5) / count, number) for number, count in steps.items() for k in range(count)]
    return tuple(number for _, number in sorted(positions))
