"""QC-Comp before Tempo's compressor: XComp says which segments are worth compressing (xcomp §3).

Ours; neither system does it. XComp scores the very frames that Tempo would see. It scores eight frames
together and Tempo compresses as many, so whole segments are kept, with the times they have in the video.
"""

from collections.abc import Callable

import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.runtime.buckets import multiple
from tempo_jax.video import Source
from tempo_jax.xcomp import frame_selection
from tempo_jax.xcomp.clip import Clip
from tempo_jax.xcomp.engine import XComp
from tempo_jax.xcomp.layout import GRAIN
from tempo_jax.xcomp.options import DEFAULT_FRAMES


def choose(
    xcomp: XComp,
    source: Source,
    question: str,
    frames: int = DEFAULT_FRAMES,
    *,
    segment_frames: int = 8,
    strategy: str = "local",
    repeats: int = 2,
    progress: Callable[[str, int, int], None] | None = None,
) -> Source:
    """The part of a video to ask Tempo about: the segments of the highest scores, in time order.

    source: from `video.open_video`, as Tempo samples it. frames: most that stay; a video of no more is
    returned as it is. strategy: "local", "global" or, evenly spread whatever the question, "uniform".
    Raises TempoError for an image and for fewer frames than a segment has.
    """
    if source.kind == "image":
        raise TempoError("An image has no frames to choose from: leave out the selector.")
    if frames < segment_frames:
        raise TempoError(f"{frames} frames are fewer than a segment's {segment_frames}: keep at least those.")
    every = source.segments(segment_frames)
    count = frames // segment_frames
    if source.num_frames <= frames:
        return source
    if strategy == "uniform":
        return source.select_segments([every[i] for i in np.arange(count) * len(every) // count])
    scores = frame_scores(xcomp, source, question, strategy=strategy, repeats=repeats, progress=progress)
    means = np.array([scores[segment.start : segment.stop].mean() for segment in every])
    return source.select_segments([every[i] for i in frame_selection.keep(means, count)])


def frame_scores(xcomp: XComp, source: Source, question: str, *, progress=None, **options) -> np.ndarray:
    """What the question pays each sampled frame, float64 [frames]; options of XComp's `ask`."""
    clip = Clip(xcomp, source, keep=True, least=multiple(source.num_frames, GRAIN))
    scores, order = clip.scores(question, progress=progress, **options), clip.frames.order
    return np.bincount(order, weights=scores) / np.bincount(order)
