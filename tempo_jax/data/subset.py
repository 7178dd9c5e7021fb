"""A fixed part of a data source: XComp is tuned on 2.5 % of one (docs/reference/xcomp.md#tuning-recipe)."""

import math
import random
from typing import Any

SLICE_SEED, SHARE_SEED = 12_345, 42  # published; the shuffle is not, so the samples differ


class Subset:
    """A part of a source in two cuts.

    Of all samples, shuffled, the second slice of `percent` percent (the base model was trained on the first);
    of that, shuffled again, the fraction from `start` to `stop`. The published run has stop 0.25, and percent
    10 for sets that the base model used whole, 2.5 and 1 for those it used a quarter and a tenth of.
    """

    def __init__(self, source: Any, percent: float, start: float = 0.0, stop: float = 1.0):
        self.source = source
        self.indices = _cut(len(source), percent, start, stop)
        part = f"{percent:g} % from {start:g} to {stop:g} of it"
        self.name = f"{getattr(source, 'name', '')} ({part})"
        whole = getattr(source, "fingerprint", "")
        self.fingerprint = f"{whole}/{percent:g}/{start:g}/{stop:g}" if whole else ""
        counts = getattr(source, "frame_counts", None)
        self.frame_counts = None if counts is None else [counts[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.source[self.indices[index]]


def _cut(count: int, percent: float, start: float, stop: float) -> list[int]:
    size = math.ceil(percent * count / 100)
    chosen = _shuffled(list(range(count)), SLICE_SEED)[size : 2 * size]
    chosen = _shuffled(chosen, SHARE_SEED)
    return chosen[int(start * len(chosen)) : int(stop * len(chosen))]


def _shuffled(indices: list[int], seed: int) -> list[int]:
    random.Random(seed).shuffle(indices)
    return indices
