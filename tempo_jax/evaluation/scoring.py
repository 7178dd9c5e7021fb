"""How good answers are: shares with their intervals, and how well relevance finds what matters."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from tempo_jax.runtime.results import Segment

Z95 = 1.959964  # standard normal quantile of a two-sided 95 %


def wilson(right: int, asked: int) -> tuple[float, float]:
    """The 95 % interval of a share, from 0 to 1 (Wilson 1927); of nothing asked, (0, 1)."""
    if not asked:
        return 0.0, 1.0
    share, z2 = right / asked, Z95 * Z95
    centre = (share + z2 / (2 * asked)) / (1 + z2 / asked)
    half = Z95 * math.sqrt(share * (1 - share) / asked + z2 / (4 * asked * asked)) / (1 + z2 / asked)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(shares: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The 95 % interval of the plain mean of groups' shares; (right, asked) of each.

    Normal, from the groups' binomial variances with one right and one wrong answer added to each, so that
    a group in which all are right is not taken to be certain.
    """
    mean = sum(right / asked for right, asked in shares) / len(shares)
    smooth = [((right + 1) / (asked + 2), asked) for right, asked in shares]
    deviation = math.sqrt(sum(p * (1 - p) / asked for p, asked in smooth)) / len(shares)
    return max(0.0, mean - Z95 * deviation), min(1.0, mean + Z95 * deviation)


def relevance_auc(segments: Sequence[Segment], spans: Sequence[tuple[float, float]]) -> float | None:
    """How well segments' relevance finds the `spans`, (start, end) in seconds, that matter; see `auc`.

    None where nothing was scored: XComp that has all frames chosen leaves NaN.
    """
    times = [(segment.start_seconds, segment.end_seconds) for segment in segments]
    relevance = np.array([segment.relevance for segment in segments])
    return None if np.isnan(relevance).any() else auc(relevance, overlapping(times, spans))


def auc(scores: np.ndarray, matters: np.ndarray) -> float | None:
    """Chance that a segment that matters scores above one that does not; ties count half.

    scores float[S], matters bool[S]. None where one of the two kinds is missing.
    """
    good, bad = scores[matters], scores[~matters]
    if not len(good) or not len(bad):
        return None
    return float((good[:, None] > bad).mean() + (good[:, None] == bad).mean() * 0.5)


def overlapping(times: Iterable[tuple[float, float]], spans: Sequence[tuple[float, float]]) -> np.ndarray:
    """bool[S]: which segments, (start, end) in seconds, share time with any of the spans."""
    return np.array([any(s < end and start < e for start, end in spans) for s, e in times], bool)
