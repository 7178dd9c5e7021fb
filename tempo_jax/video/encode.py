"""Encodes generated videos."""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np


def encode(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: float,
    *,
    gop: int = 50,
    preset: str = "veryfast",
    options: Mapping[str, str] | None = None,
    rotation: int = 0,
    faststart: bool = False,
    container: str | None = None,
) -> None:
    """Encodes frames with libx264, one at a time.

    Args:
      path: file to write; its suffix chooses the container format.
      frames: uint8 [height, width, 3], all of one size.
      fps: frames per second.
      gop: maximum number of frames between keyframes.
      preset: preset of libx264.
      options: further options of libx264.
      rotation: display rotation in degrees, counterclockwise.
      faststart: writes the index first, so that a truncated file can be read.
      container: container format, in place of the suffix's.
    """
    import av

    rate, stream = Fraction(fps).limit_denominator(1001), None
    flags = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", format=container, options=flags) as output:
        for index, pixels in enumerate(frames):
            if stream is None:
                stream = output.add_stream("libx264", rate=rate)
                stream.height, stream.width = pixels.shape[:2]
                # 4:2:0 halves both sides, so odd ones need 4:4:4.
                stream.pix_fmt = "yuv444p" if pixels.shape[0] % 2 or pixels.shape[1] % 2 else "yuv420p"
                stream.options = {"preset": preset, "g": str(gop), **(options or {})}
                if rotation:
                    stream.set_display_rotation(rotation)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            output.mux(stream.encode(frame))
        if stream is not None:
            output.mux(stream.encode(None))
