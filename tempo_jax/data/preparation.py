"""Preparing a sample: settings, encoding of frames, rejection of bad samples."""

import dataclasses
import functools
import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from tempo_jax.data import resize
from tempo_jax.data.records import Encoding, to_sample
from tempo_jax.data.samples import llm_tokens
from tempo_jax.errors import TempoError
from tempo_jax.models.config import TempoConfig, VideoConfig, XCompConfig
from tempo_jax.video import image_size, model_size, segment_count
from tempo_jax.video.sampling import check_limits
from tempo_jax.video.sources import SAMPLINGS

DUMMY_SIDE = 336  # pixels of the white image of a text-only sample (docs/reference/tempo.md#images)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How samples are sampled, resized and stored.

    Attributes:
      video: The model's limits on frame sizes.
      fps: Sampling rate, frames per second.
      min_frames: Minimum number of sampled frames of a video.
      max_frames: Maximum number of sampled frames of a video.
      sampling: A name in video.sources.SAMPLINGS.
      source_fps: Rate at which folders and lists of frames were recorded; None: that of `fps`.
      encoding: Encoding of the stored frames.
      sizes: The only (height, width) of frames; each sample uses the one of the nearest aspect ratio. Empty:
        each sample keeps the size that the model would resize it to.
    """

    video: VideoConfig = dataclasses.field(default_factory=VideoConfig)
    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 384
    sampling: str = "time"
    source_fps: float | None = None
    encoding: Encoding = dataclasses.field(default_factory=Encoding)
    sizes: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        check_limits(self.fps, self.min_frames, self.max_frames)
        if self.sampling not in SAMPLINGS:
            raise TempoError(f"sampling is {self.sampling!r}: choose from {', '.join(SAMPLINGS)}.")
        for height, width in self.sizes:
            if min(height, width) < 32 or height % 32 or width % 32:
                raise TempoError(f"The frame size {height}x{width} cannot be: sides are multiples of 32.")

    def frame(self, pixels: np.ndarray, image: bool = False) -> np.ndarray:
        """Resizes uint8 [H, W, 3] to the model's size; `image`: a single image, not a frame of a video."""
        rule = resize.image if image else resize.video_frame
        size = (image_size if image else model_size)(*pixels.shape[:2], self.video)
        if not self.sizes or size in self.sizes:
            return rule(pixels, self.video)
        return resize.to_size(pixels, min(self.sizes, key=functools.partial(_distance, size)))

    def encode(self, frames: Iterable[np.ndarray], image: bool = False) -> list[bytes]:
        return [self.encoding.encode(self.frame(pixels, image)) for pixels in frames]

    def dummy(self) -> list[bytes]:
        """Returns the encoded frame of a text-only sample."""
        return self.encode([np.full((DUMMY_SIDE, DUMMY_SIDE, 3), 255, np.uint8)], image=True)


def _distance(wanted: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    """Returns by how much `size` distorts `wanted`, and then by how much it scales it."""
    tall, wide = (math.log(a / b) for a, b in zip(wanted, size))
    return round(abs(tall - wide), 6), abs(tall + wide)


class BadSample(ValueError):
    """A sample cannot be used; `reason` is its category, str() the message."""

    def __init__(self, reason: str, sentence: str):
        super().__init__(sentence)
        self.reason = reason

    def __reduce__(self) -> tuple:
        return BadSample, (self.reason, str(self))


@dataclasses.dataclass(frozen=True)
class Skipped:
    """One line of skipped.jsonl; `where` is as "line 7" or "record 7", counted from 1."""

    where: str
    id: str
    reason: str
    message: str


class Limit:
    """The limit on the length of samples, in LLM tokens, memory tokens included.

    Without a tokenizer, only memory tokens are counted.
    """

    def __init__(
        self, config: TempoConfig | XCompConfig, most: int, tokenizer_folder: str | os.PathLike | None = None
    ):
        self.config, self.most, self.tokenizer = config, most, None
        if tokenizer_folder is not None:
            from tempo_jax.prompts import Tokenizer

            self.tokenizer = Tokenizer(tokenizer_folder)

    def check(self, example: dict[str, Any]) -> None:
        """Raises BadSample where the example is longer than the limit."""
        tokens = self._tokens(example)
        if tokens > self.most:
            raise BadSample("too long", f"it takes {tokens} tokens of at most {self.most}")

    def _tokens(self, example: dict[str, Any]) -> int:
        visual = self._visual_tokens(example)
        if self.tokenizer is None:
            return visual
        stored = example | {name: example[name].encode() for name in ("conversations", "fps", "times")}
        sample = to_sample(stored)
        ids, _ = self.tokenizer.training_prompt(sample.conversation)
        if example["kind"] == "text" or isinstance(self.config, XCompConfig):
            return visual + len(ids)
        times = sample.segments(self.config.video.segment_frames)
        return llm_tokens(ids, times, self.tokenizer, self.config.memory_tokens)

    def _visual_tokens(self, example: dict[str, Any]) -> int:
        """Counts the memory tokens of segments or clips."""
        frames = len(example["frames"])
        if example["kind"] == "text":
            return 0
        if isinstance(self.config, XCompConfig):
            return frames * self.config.frame_tokens
        return segment_count(frames, self.config.video.segment_frames) * self.config.memory_tokens
