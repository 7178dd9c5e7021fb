"""Which frames QC-Comp scores together: overlapping chunks of a video that goes in circles (xcomp §3.2)."""

import dataclasses

import numpy as np

from tempo_jax.xcomp.layout import GRAIN

STRIDE = 512  # frames between the chunks of a round


@dataclasses.dataclass(frozen=True)
class Windows:
    """Clips of 8 frames that a question looks at together, and how far the next window is.

    The published scorer is (8, 4). `size` 0: one window, the whole chunk (the scorer "global").
    """

    size: int = 8
    hop: int = 4

    @property
    def overlap(self) -> int:
        """Frames that a chunk has beyond its stride: its outer clips are in fewer windows than others."""
        return 2 * GRAIN * self.hop if self.size else 0

    def starts(self, clips: int) -> list[int]:
        return list(range(0, clips - self.size + 1, self.hop)) if self.size else [0]

    def coverage(self, clips: int) -> np.ndarray:
        """How many windows hold each clip, int [clips]."""
        size = self.size or clips
        counts = np.zeros(clips, int)
        for start in self.starts(clips):
            counts[start : start + size] += 1
        return counts

    def valid(self, clips: int) -> np.ndarray:
        """Clips whose scores count, those in as many windows as any: bool [clips]."""
        counts = self.coverage(clips)
        return (counts == counts.max()) & (counts > 0)


LOCAL, GLOBAL = Windows(), Windows(size=0, hop=0)


def stride(frames: int, windows: Windows) -> int:
    """Frames from chunk to chunk: 512, or of shorter videos a power of two of whole hops, so that few
    different chunk lengths are ever compiled for."""
    unit = GRAIN * max(windows.hop, 1)
    hops = max(1, frames // unit)
    return min(STRIDE, unit << (hops.bit_length() - 1))


def chunk_frames(frames: int, windows: Windows) -> int:
    """Length of every chunk of a video of so many frames."""
    return stride(frames, windows) + windows.overlap


def chunk_starts(frames: int, repeats: int, windows: Windows = LOCAL) -> list[int]:
    """First frame of every chunk, `repeats` rounds of them, each round shifted against the last.

    The shift of a round is stride/repeats plus 8/repeats frames, so that the clips' borders move too.
    """
    step = stride(frames, windows)
    rounds = -(-frames // step)
    shift = GRAIN // repeats + step // repeats
    return [(step * i + (i // rounds) * shift) % frames for i in range(repeats * rounds)]


def chunk_indices(start: int, length: int, frames: int) -> np.ndarray:
    """Frames of a chunk, int64 [length]; past the end of the video comes its start."""
    return (start + np.arange(length)) % frames
