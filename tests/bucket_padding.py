"""What of XComp's pool stays empty, by the packing that training uses; videos as numbers of clips alone."""

from collections import Counter

import numpy as np

from tempo_jax.data import batch_packing, buckets
from tempo_jax.data.batch_packing import Shape

# Name -> (generator, how many) -> clips of 8 frames, of videos of 16 to 1024 frames.
MIXTURES = {
    "uniform": lambda rng, n: rng.integers(16, 1025, n) // 8,
    "log-uniform": lambda rng, n: np.exp(rng.uniform(np.log(16), np.log(1025), n)).astype(int) // 8,
    "half short": lambda rng, n: (
        np.where(rng.random(n) < 0.5, rng.integers(16, 129, n), rng.integers(128, 1025, n)) // 8
    ),
}


def padding(clips, batch, window: int = 64) -> float:
    """The share of the pool's clips that are nobody's, over a pass."""
    used, rooms = Counter(), buckets.buckets_of(batch)
    for number, bucket in enumerate(rooms):
        shape = bucket.shape(Shape(batch.pool, batch.row_length, batch.conversations, 1 << 30))
        mine = [int(count) for count in clips if buckets.bucket_of(int(count), rooms) == number]
        waiting, most = [], min(window, 4 * bucket.conversations)
        while mine or waiting:
            while mine and len(waiting) < most:
                waiting.append(batch_packing.Need(mine.pop(0), 0, 0, 0, alone=True))
            if not mine and len(waiting) < most:
                break  # the last ones: more samples follow in training
            chosen = batch_packing.choose(waiting, shape)
            used += batch_packing.usage([waiting[i] for i in chosen], shape)
            waiting = [need for i, need in enumerate(waiting) if i not in set(chosen)]
    return batch_packing.waste(used)["segments"]
