"""Results of a question: plain values, ready for JSON and for a plot.

This module does not import jax; arrays are numpy arrays or Python numbers.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# The keys of Answer.usage.
#   frames             sampled frames
#   frames_kept        encoded frames: fewer if a selector chose among the sampled ones
#   segments           segments of the encoded frames (1 for an image)
#   budget             the token budget in force
#   visual_tokens      memory tokens kept, without time tags; never above the budget
#   tokens_per_frame   visual_tokens / frames
#   prompt_tokens      length of the LLM's prompt: text, time tags and memory tokens
#   layer_tokens       prompt tokens that a layer of the LLM processes, mean over layers: fewer with LP-Comp
#   new_tokens         length of the answer


@dataclasses.dataclass(frozen=True)
class Segment:
    """One segment of the video, with its relevance to the question and its tokens.

    Attributes:
      index: Index among the video's segments.
      start_seconds: Start, in seconds of the video.
      end_seconds: End, in seconds of the video.
      relevance: Relevance to the question, in (0, 1).
      tokens: Visual tokens kept, within Answer.token_limits.
    """

    index: int
    start_seconds: float
    end_seconds: float
    relevance: float
    tokens: int


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to one question about one video.

    Attributes:
      text: The answer.
      token_ids: Its tokens, with the end token if one was generated.
      segments: The video's segments; empty for an image, whose tokens are not allocated over time.
      usage: Counts of frames and tokens, by the keys listed in `tempo_jax.runtime.results`.
      timings: Seconds by stage: video (waiting for decoded frames), compress (until the allocation is known),
        first_token, answer (from the allocation to the last token), total.
      warnings: Whole sentences.
      token_limits: Minimum and maximum number of visual tokens of a segment (a budget below one minimum per
        segment lowers the minimum).
    """

    text: str
    token_ids: Sequence[int]
    segments: Sequence[Segment]
    usage: Mapping[str, int | float]
    timings: Mapping[str, float]
    warnings: Sequence[str] = ()
    token_limits: tuple[int, int] = (4, 128)

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields as plain JSON values; non-finite numbers become None."""
        return _plain(self)

    def to_json(self, indent: int | None = None) -> str:
        """Returns all fields as a JSON object."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=indent)

    def plot(self, path: str | Path, title: str | None = None) -> None:
        """Draws the allocation over the video's time axis.

        Args:
          path: File to write: .png, .pdf, .svg, .jpg, .jpeg or .webp.
          title: Title of the figure.

        Raises:
          TempoError: The answer is about an image, or the file cannot be written.
        """
        from tempo_jax.runtime.plot import plot_allocation  # matplotlib is slow to import

        minimum, maximum = self.token_limits
        plot_allocation(self.segments, path, title=title, floor=minimum, cap=maximum)


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The intermediate values between video and answer, as numpy arrays, for comparison and debugging.

    S segments, K memory tokens per segment, D the compressor's width, V the vocabulary.

    Attributes:
      relevance: float32 [S].
      allocation: int32 [S], tokens kept per segment; [0] for an image.
      memory: [S, K, D], before tokens are dropped and projected.
      sequence_length: Length of the LLM's prompt.
      logits: float32 [V], of the first new token.
      warnings: Whole sentences.
    """

    relevance: np.ndarray
    allocation: np.ndarray
    memory: np.ndarray
    sequence_length: int
    logits: np.ndarray
    warnings: Sequence[str] = ()


def _plain(value: Any) -> Any:
    """Converts dataclasses, tuples and numpy values to JSON's types."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
