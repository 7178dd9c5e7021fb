"""Animated WebP by Pillow (FFmpeg decodes none) as a source of frames with times."""

from collections.abc import Generator
from pathlib import Path

import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.video import clock, declared, images

SHORTEST_SECONDS = 0.1  # of a picture whose duration is not said; what browsers take


class Animation:
    """An animated picture file.

    Attributes:
      height, width: in pixels.
      timeline: when each picture is shown.
      warnings: sentences for the user.
    """

    def __init__(self, path: Path):
        """Raises TempoError where no picture can be read."""
        self.path, self.warnings = path, []
        lengths = []
        try:
            with images.opened(path) as picture:
                self.height, self.width = picture.height, picture.width
                for number in range(picture.n_frames):
                    picture.seek(number)
                    picture.load()
                    lengths.append(float(picture.info.get("duration") or 0) / 1000 or SHORTEST_SECONDS)
        except images.DAMAGE as error:
            if not lengths:
                raise TempoError(f"{path} is a damaged image: get a complete copy.") from error
            self.warnings.append(f"{path.name} is damaged: it breaks off after {len(lengths)} pictures.")
        fault = declared.fault(path, "webp_pipe")
        if fault and not self.warnings:
            self.warnings.append(f"{path.name} {fault}.")
        starts = np.concatenate([[0.0], np.cumsum(lengths[:-1])])
        self.timeline = clock.timeline(starts, 0.0, lengths[-1], tick=1e-3)

    def frames(self, indices: np.ndarray) -> Generator[np.ndarray, None, None]:
        """Yields uint8 [height, width, 3] for every index, which ascend."""
        with images.opened(self.path) as picture:
            number, pixels = -1, None
            for index in indices:
                if index != number:
                    picture.seek(int(index))
                    number, pixels = index, images.to_rgb(picture, self.path, exif=False)
                yield pixels
