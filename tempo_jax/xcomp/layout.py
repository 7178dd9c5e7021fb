"""Frame sampling and prompts of XComp.

A multiple of 8 frames is sampled, from the middles of equal parts of the video. Sources:
docs/reference/xcomp.md#frame-sampling-of-xcomp, docs/reference/xcomp.md#prompts-of-xcomp.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tempo_jax.models.config import VideoConfig
from tempo_jax.prompts import Message, Tokenizer
from tempo_jax.video.sampling import check_limits

FRAME_GROUP = 8  # frame counts are multiples of this; QC-Comp scores so many frames together
FPS, MIN_FRAMES, MAX_FRAMES = 8.0, 128, 1024
VIDEO_CONFIG = VideoConfig(segment_frames=1)  # for decoding; frame sizes are XComp's own


def sample_indices(
    total_frames: int,
    native_fps: float | None,
    fps: float = FPS,
    min_frames: int = MIN_FRAMES,
    max_frames: int = MAX_FRAMES,
) -> np.ndarray:
    """Indices of the sampled frames, int64 [n], ascending, n a multiple of 8.

    n is duration x fps, within min_frames..max_frames and at most the frames of the video; a video of fewer
    than 8 frames repeats some. Limits are rounded down to multiples of 8; max_frames takes precedence over
    min_frames.

    Args:
      total_frames: Frames of the video.
      native_fps: Its frame rate; where unknown, `fps` is assumed.
      fps: Sampling rate in frames per second.
      min_frames: Minimum number of frames.
      max_frames: Maximum number of frames.
    """
    check_limits(fps, min_frames, max_frames)
    total = max(int(total_frames), 1)
    if total < FRAME_GROUP:
        return np.arange(FRAME_GROUP) * total // FRAME_GROUP
    rate = native_fps if native_fps and math.isfinite(native_fps) and native_fps > 0 else fps
    maximum = min(_round_to_groups(max_frames), _round_to_groups(total))
    minimum = min(_round_to_groups(min_frames, 0), maximum)
    wanted = _round_to_groups(math.floor(fps * (total / rate)))
    return interval_middles(total, max(minimum, min(wanted, maximum)))


def _round_to_groups(count: int, minimum: int = FRAME_GROUP) -> int:
    return max(minimum, count // FRAME_GROUP * FRAME_GROUP)


def interval_middles(total: int, count: int) -> np.ndarray:
    """The middle, rounded down, of each of `count` equal parts of 0..total-1."""
    edges = np.linspace(0, total, count + 1).astype(np.int64)
    return (edges[:-1] + edges[1:] - 1) // 2


def repeat_indices(count: int, min_frames: int) -> np.ndarray:
    """Indices that repeat `count` frames to at least `min_frames`, as the reference does for QC-Comp."""
    return np.arange(count) if count >= min_frames else np.arange(min_frames) * count // min_frames


class PromptText(NamedTuple):
    """Token ids before and after the video."""

    prefix: list[int]
    suffix: list[int]
    question_start: int  # index in the suffix of the first token after the time message
    question_end: int  # index one past the user turn, where the assistant's header starts


def time_message(duration_seconds: float, frames: int) -> str:
    """The prompt's sentence about the video; `frames` are the sampled ones, not the selected ones."""
    lasts = f"The video lasts for {duration_seconds:.2f} seconds"
    return f"{lasts}, and {frames} frames are uniformly sampled from it."


def prompt_text(
    tokenizer: Tokenizer, question: str, message: str | None, conversation: Sequence[Message] = ()
) -> PromptText:
    """The prompt of one question.

    Args:
      tokenizer: The model's.
      question: The question.
      message: The time message; None for an image.
      conversation: As in `Tokenizer.chat_ids`; only the question is used for scoring.
    """
    before = "" if message is None else message
    video_turn = next((i for i, m in enumerate(conversation) if m.video), None)
    header = tokenizer.assistant_header
    if video_turn is None:
        user_text = f"{before} {question}" if before else question
        prefix, suffix = tokenizer.chat_ids(user_text, conversation)
        message_ids = tokenizer.encode(f"\n{before}")
        pairs = enumerate(zip(message_ids, suffix))
        start = next((i for i, (a, b) in pairs if a != b), len(message_ids))
        return PromptText(prefix, suffix, start, len(suffix) - len(header))
    first = conversation[video_turn]
    earlier = [*conversation]
    earlier[video_turn] = first._replace(text=f"{before} {first.text}" if before else first.text)
    prefix, suffix = tokenizer.chat_ids(question, earlier)
    end = len(suffix) - len(header)
    start = end - len(tokenizer.turn("user", question)) + 1 + len(tokenizer.encode("user\n"))
    return PromptText(prefix, suffix, start, end)
