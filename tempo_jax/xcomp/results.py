"""XComp's answer is Tempo's with a frame for a segment."""

import dataclasses

from tempo_jax.runtime.results import Segment


@dataclasses.dataclass(frozen=True)
class FrameSegment(Segment):
    """One sampled frame: `tokens` are 16 where it was kept and 0 where not.

    relevance: score as a share of the best frame's; like `score`, the sum over layers of the mean attention
    that the question pays the frame (xcomp §3.4), it is NaN (JSON: null) where nothing had to be chosen.
    """

    frame: int = 0  # number in the video
    score: float = float("nan")
