"""What an answered question gives back: plain values, ready for JSON and for a plot.

Nothing here imports jax; arrays from the device arrive as numpy arrays or Python numbers.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# The keys of Answer.usage.
#   frames             sampled
#   frames_kept        of them, those that were looked at: fewer where a selector chose
#   segments           of those (1 for an image)
#   budget             the token budget that was in force
#   visual_tokens      memory tokens kept, time tags not counted; never above the budget
#   tokens_per_frame   visual_tokens / frames
#   prompt_tokens      length of the global LLM's prompt: text, time tags and memory tokens
#   layer_tokens       how many of them a layer of the LLM sees, mean over layers: fewer with LP-Comp
#   new_tokens         length of the answer


@dataclasses.dataclass(frozen=True)
class Segment:
    """One window of frames and what it was worth to the question."""

    index: int
    start_seconds: float
    end_seconds: float
    relevance: float  # probability-like, in (0, 1)
    tokens: int  # memory tokens kept, out of Answer.token_limits


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to one question about one video.

    segments is empty for an image, which is not allocated over time. token_limits are the fewest
    and the most memory tokens a segment gets (before a budget below one floor per segment).
    timings are seconds by stage. warnings are whole sentences.
    """

    text: str
    token_ids: Sequence[int]
    segments: Sequence[Segment]
    usage: Mapping[str, int | float]
    timings: Mapping[str, float]
    warnings: Sequence[str] = ()
    token_limits: tuple[int, int] = (4, 128)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values: lists, dicts, str, int, float; not-finite numbers are None."""
        return _plain(self)

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=indent)

    def plot(self, path: str | Path, title: str | None = None) -> None:
        """Draw the allocation over the video's time axis into `path` (.png, .pdf, .svg, .jpg, .webp).

        Raises TempoError for an image's answer (it has no segments) and for a path that cannot be
        written.
        """
        from tempo_jax.runtime.plot import plot_allocation  # matplotlib is slow to import

        floor, cap = self.token_limits
        plot_allocation(self.segments, path, title=title, floor=floor, cap=cap)


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The numbers between video and answer, as numpy arrays, for comparing and debugging.

    S segments, K memory tokens per segment, D the compressor's width, V the vocabulary.
    """

    relevance: np.ndarray  # [S] float32
    allocation: np.ndarray  # [S] int32; [0] for an image
    memory: np.ndarray  # [S, K, D] before truncation and projector
    sequence_length: int  # prompt length of the global LLM
    logits: np.ndarray  # [V] float32 of the first new token
    warnings: Sequence[str] = ()  # whole sentences


def _plain(value: Any) -> Any:
    """`value` with dataclasses, tuples and numpy values turned into JSON's types."""
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
