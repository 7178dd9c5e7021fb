"""QC-Comp before Tempo's compressor: XComp selects the segments that are compressed.

This combination is new; neither paper has it. XComp scores the frames that Tempo samples. It scores eight
frames together, as many as Tempo compresses together, so whole segments are selected, with their times in the
video (docs/reference/xcomp.md#selection).
"""

from collections.abc import Callable

import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.runtime.buckets import round_up_to
from tempo_jax.video import Source
from tempo_jax.xcomp import frame_selection
from tempo_jax.xcomp.clip import Clip
from tempo_jax.xcomp.engine import XComp
from tempo_jax.xcomp.layout import FRAME_GROUP
from tempo_jax.xcomp.options import DEFAULT_SELECTED_FRAMES


def select_segments(
    xcomp: XComp,
    source: Source,
    question: str,
    frames: int = DEFAULT_SELECTED_FRAMES,
    *,
    segment_frames: int = 8,
    strategy: str = "local",
    repeats: int = 2,
    progress: Callable[[str, int, int], None] | None = None,
) -> Source:
    """Selects the segments of a video with the highest scores.

    Args:
      xcomp: The scorer.
      source: From `video.open_video`, sampled for Tempo.
      question: The question.
      frames: Maximum number of frames to keep; a video of no more is returned unchanged.
      segment_frames: Frames of a segment.
      strategy: "local", "global" or, evenly spaced segments whatever the question, "uniform".
      repeats: Rounds of scoring.
      progress: Called with (stage, done, total).

    Returns:
      A source with the selected segments in time order.

    Raises:
      TempoError: The source is an image, or `frames` is less than a segment.
    """
    if source.kind == "image":
        raise TempoError("An image has no frames to choose from: leave out the selector.")
    if frames < segment_frames:
        raise TempoError(f"{frames} frames are fewer than a segment's {segment_frames}: keep at least those.")
    segments = source.segments(segment_frames)
    count = frames // segment_frames
    if source.num_frames <= frames:
        return source
    if strategy == "uniform":
        return source.select_segments([segments[i] for i in np.arange(count) * len(segments) // count])
    scores = frame_scores(xcomp, source, question, strategy=strategy, repeats=repeats, progress=progress)
    means = np.array([scores[segment.start : segment.stop].mean() for segment in segments])
    return source.select_segments([segments[i] for i in frame_selection.top_frames(means, count)])


def frame_scores(xcomp: XComp, source: Source, question: str, *, progress=None, **options) -> np.ndarray:
    """Relevance score of each sampled frame, float64 [frames]; options of XComp's `ask`."""
    clip = Clip(xcomp, source, keep=True, min_frames=round_up_to(source.num_frames, FRAME_GROUP))
    scores, order = clip.scores(question, progress=progress, **options), clip.frames.sample_order
    return np.bincount(order, weights=scores) / np.bincount(order)
