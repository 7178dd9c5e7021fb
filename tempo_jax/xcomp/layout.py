"""Which frames of a video XComp sees, and the prompt around them (xcomp §1.7, §1.8).

A multiple of 8 frames is sampled, from the middles of equal parts of the video.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tempo_jax.models.config import VideoConfig
from tempo_jax.prompts import Message, Tokenizer
from tempo_jax.video.sampling import check_limits

FRAME_GROUP = 8  # frames; also what QC-Comp scores together
FPS, MIN_FRAMES, MAX_FRAMES = 8.0, 128, 1024
VIDEO_CONFIG = VideoConfig(segment_frames=1)  # what decoding is told; sizes are the model's own business


def sample_indices(
    total_frames: int,
    native_fps: float | None,
    fps: float = FPS,
    min_frames: int = MIN_FRAMES,
    max_frames: int = MAX_FRAMES,
) -> np.ndarray:
    """The frames to look at: int64 [n], ascending, n a multiple of 8.

    n is duration x fps within min_frames..max_frames and no more than there are; a video of fewer than 8
    frames repeats some. Limits count in eights, rounded down; max_frames wins over min_frames.
    """
    check_limits(fps, min_frames, max_frames)
    total = max(int(total_frames), 1)
    if total < FRAME_GROUP:
        return np.arange(FRAME_GROUP) * total // FRAME_GROUP
    rate = native_fps if native_fps and math.isfinite(native_fps) and native_fps > 0 else fps
    most = min(_round_to_groups(max_frames), _round_to_groups(total))
    least = min(_round_to_groups(min_frames, 0), most)
    wanted = _round_to_groups(math.floor(fps * (total / rate)))
    return interval_middles(total, max(least, min(wanted, most)))


def _round_to_groups(count: int, least: int = FRAME_GROUP) -> int:
    return max(least, count // FRAME_GROUP * FRAME_GROUP)


def interval_middles(total: int, count: int) -> np.ndarray:
    """The middle, rounded down, of each of `count` equal parts of 0..total-1."""
    edges = np.linspace(0, total, count + 1).astype(np.int64)
    return (edges[:-1] + edges[1:] - 1) // 2


def repeat_indices(count: int, least: int) -> np.ndarray:
    """Numbers of the frames that stretch `count` frames to `least`: the released QC-Comp path does so."""
    return np.arange(count) if count >= least else np.arange(least) * count // least


class PromptText(NamedTuple):
    """Token ids before and after the video."""

    prefix: list[int]
    suffix: list[int]
    question_start: int  # in the suffix: the first token that is not the time message's
    question_end: int  # … one past the user turn, where the assistant's header starts


def time_message(duration_seconds: float, frames: int) -> str:
    """What the published weights are told: the frames that were sampled, not those that stay."""
    lasts = f"The video lasts for {duration_seconds:.2f} seconds"
    return f"{lasts}, and {frames} frames are uniformly sampled from it."


def prompt_text(
    tokenizer: Tokenizer, question: str, message: str | None, conversation: Sequence[Message] = ()
) -> PromptText:
    """The prompt of one question; message None: of an image, which lasts no time.

    conversation: as of `Tokenizer.chat_ids`; what is scored is the question alone.
    """
    before = "" if message is None else message
    shown = next((i for i, m in enumerate(conversation) if m.video), None)
    header = tokenizer.assistant_header
    if shown is None:
        said = f"{before} {question}" if before else question
        prefix, suffix = tokenizer.chat_ids(said, conversation)
        alone = tokenizer.encode(f"\n{before}")
        start = next((i for i, (a, b) in enumerate(zip(alone, suffix)) if a != b), len(alone))
        return PromptText(prefix, suffix, start, len(suffix) - len(header))
    first = conversation[shown]
    earlier = [*conversation]
    earlier[shown] = first._replace(text=f"{before} {first.text}" if before else first.text)
    prefix, suffix = tokenizer.chat_ids(question, earlier)
    end = len(suffix) - len(header)
    start = end - len(tokenizer.turn("user", question)) + 1 + len(tokenizer.encode("user\n"))
    return PromptText(prefix, suffix, start, end)
