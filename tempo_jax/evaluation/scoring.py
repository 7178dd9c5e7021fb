"""Scores: accuracies with confidence intervals, and the AUC of relevance scores."""

import math
import random
from collections.abc import Iterable, Sequence

import numpy as np

from tempo_jax.evaluation.annotations import Question
from tempo_jax.runtime.results import Segment

Z95 = 1.959964  # standard normal quantile of a two-sided 95 %


def wilson(right: int, asked: int) -> tuple[float, float]:
    """Returns the 95 % Wilson interval of an accuracy; (0, 1) without questions."""
    if not asked:
        return 0.0, 1.0
    share, z2 = right / asked, Z95 * Z95
    center = (share + z2 / (2 * asked)) / (1 + z2 / asked)
    half = Z95 * math.sqrt(share * (1 - share) / asked + z2 / (4 * asked * asked)) / (1 + z2 / asked)
    return max(0.0, center - half), min(1.0, center + half)


def mean_interval(shares: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Returns the 95 % interval of the unweighted mean of groups' accuracies.

    It is normal, from the groups' binomial variances with one correct and one incorrect answer added to each,
    so that a group with all answers correct has some variance.

    Args:
      shares: (correct answers, questions) of each group.
    """
    mean = sum(right / asked for right, asked in shares) / len(shares)
    smooth = [((right + 1) / (asked + 2), asked) for right, asked in shares]
    deviation = math.sqrt(sum(p * (1 - p) / asked for p, asked in smooth)) / len(shares)
    return max(0.0, mean - Z95 * deviation), min(1.0, mean + Z95 * deviation)


def relevance_auc(segments: Sequence[Segment], spans: Sequence[tuple[float, float]]) -> float | None:
    """Returns the AUC of segments' relevance for overlap with annotated `spans`, (start, end) in seconds.

    None where nothing was scored: XComp leaves NaN when it selects all frames.
    """
    times = [(segment.start_seconds, segment.end_seconds) for segment in segments]
    relevance = np.array([segment.relevance for segment in segments])
    return None if np.isnan(relevance).any() else auc(relevance, overlapping(times, spans))


def auc(scores: np.ndarray, matters: np.ndarray) -> float | None:
    """Returns the area under the ROC curve; ties count half.

    Args:
      scores: float [S].
      matters: bool [S], whether a segment is relevant.

    Returns:
      The probability that a relevant segment scores above another one; None where one kind is missing.
    """
    good, bad = scores[matters], scores[~matters]
    if not len(good) or not len(bad):
        return None
    return float((good[:, None] > bad).mean() + (good[:, None] == bad).mean() * 0.5)


def overlapping(times: Iterable[tuple[float, float]], spans: Sequence[tuple[float, float]]) -> np.ndarray:
    """Returns bool [S]: which segments, (start, end) in seconds, overlap any of the spans."""
    return np.array([any(s < end and start < e for start, end in spans) for s, e in times], bool)


def random_option(question: Question, seed: int) -> str:
    """Returns one of the offered letters, which depends on the question and the seed only.

    The reference evaluator draws from one global generator instead.
    """
    return random.Random(f"{seed}/{question.id}").choice(question.letters)
