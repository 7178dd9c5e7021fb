"""From scores of clips to the frames that stay: host side, numpy, float64 (xcomp §3.4)."""

import numpy as np

from tempo_jax.xcomp.chunks import Windows, chunk_indices
from tempo_jax.xcomp.layout import GRAIN


class FrameScores:
    """Sums of the clips' scores over chunks and repeats, per layer and frame."""

    def __init__(self, frames: int, layers: int):
        self.total_LF = np.zeros((layers, frames))
        self.count_F = np.zeros(frames, int)

    def add(self, start: int, scores_LC: np.ndarray, windows: Windows) -> None:
        """The scores of one chunk, a clip's for each of its 8 frames; what is invalid or no number is not."""
        frames = self.count_F.size
        clips = np.flatnonzero(windows.valid(scores_LC.shape[1]) & np.isfinite(scores_LC).all(axis=0))
        for clip in clips:
            own = chunk_indices(start + clip * GRAIN, GRAIN, frames)  # frames count in eights: no two are one
            self.total_LF[:, own] += scores_LC[:, [clip]]
            self.count_F[own] += 1

    def scores(self) -> np.ndarray:
        """Per frame the sum over layers of its mean score, float64 [F]; 0 for a frame without any."""
        return (self.total_LF / np.maximum(self.count_F, 1)).sum(axis=0)


def keep(scores_F: np.ndarray, count: int) -> np.ndarray:
    """The `count` frames of the highest scores, in time order; of equals the earlier ones. int64 [n]."""
    if count >= len(scores_F):
        return np.arange(len(scores_F))
    return np.sort(np.argsort(-scores_F, kind="stable")[:count])


def affordable(frames: int, wanted: int) -> int:
    """`wanted` frames in eights, as clips need them: at least 8, at most all."""
    return min(frames, max(GRAIN, wanted // GRAIN * GRAIN))
