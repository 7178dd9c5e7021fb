"""The index of a video file, known before its frames are decoded."""

import dataclasses
from pathlib import Path

import numpy as np

from tempo_jax.video.clock import Timeline


@dataclasses.dataclass
class VideoIndex:
    """A file's pictures in presentation order.

    Attributes:
      path: the file.
      stream: number of the video stream.
      pts: int64 [T] as the decoder stamps the pictures, in units of the stream's time base; may repeat or
        step back. None where the decoder does not stamp them: then pictures are known by counting.
      keyframes: int64 numbers of pictures that decoding can start from, ascending.
      timeline: when each picture is shown, from the first one on.
      start_seconds: of the first picture on the file's clock; 0 where the file starts with it.
      pixel_aspect: width of a pixel over its height.
      cut_into: whether the file may begin within a group of pictures.
      leading: packets at the file's start that give no picture, as what they refer to is not there.
      skippable: whether packets of unwanted pictures may be left undecoded.
      warnings: sentences for the user.
    """

    path: Path
    stream: int
    pts: np.ndarray | None
    keyframes: np.ndarray
    timeline: Timeline
    start_seconds: float = 0.0
    pixel_aspect: float = 1.0
    cut_into: bool = False
    leading: int = 0
    skippable: bool = True
    warnings: list[str] = dataclasses.field(default_factory=list)

    @property
    def total_frames(self) -> int:
        return len(self.timeline.seconds)

    def drop_leading(self, count: int) -> None:
        """Takes the first `count` pictures out: none of them can be decoded."""
        seconds = self.timeline.seconds[count:]
        shift = float(seconds[0])
        self.pts = self.pts[count:]
        self.keyframes = self.keyframes[self.keyframes >= count] - count
        self.start_seconds += shift
        duration = self.timeline.duration - shift
        self.timeline = dataclasses.replace(self.timeline, seconds=seconds - shift, duration=duration)
        self.leading += count
