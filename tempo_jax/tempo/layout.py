"""Divides a video into segments and chunks, with their prompts and time tags. Host side, numpy only."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.models.config import TempoConfig
from tempo_jax.models.qwen3_vl import PromptBatch
from tempo_jax.models.vision import grid_of, output_tokens
from tempo_jax.prompts import Message, Tokenizer, pad_rows
from tempo_jax.runtime import buckets
from tempo_jax.runtime.buckets import PROMPT_ALIGNMENT, next_power_of_two, pick_bucket, round_up_to
from tempo_jax.tempo.steps import Prompt
from tempo_jax.video import Segment, image_size, resize_steps


@dataclasses.dataclass(frozen=True)
class Chunk:
    """C segments that the compressor processes together; those past the video's end are padding."""

    start: int  # index of its first segment
    prompts: PromptBatch
    prompt_length_C: np.ndarray
    next_position_C: np.ndarray  # RoPE position after each prompt


@dataclasses.dataclass(frozen=True)
class VideoLayout:
    """Everything about a video that is known before decoding and does not depend on a question."""

    is_image: bool
    segments: tuple[Segment, ...]  # empty for an image
    num_segments: int  # 1 for an image
    padded_segments: int
    segment_frames: int
    steps: tuple[tuple[int, int], ...]  # (height, width) after each resampling
    chunks: tuple[Chunk, ...]
    chunk_segments: int
    tags_ST: np.ndarray  # int32 ids of the time tags, padded with -1

    @property
    def tag_tokens(self) -> int:
        return int(np.sum(self.tags_ST >= 0))


def make_layout(
    source: Any, config: TempoConfig, tokenizer: Tokenizer, chunk_segments: int, num_shards: int
) -> VideoLayout:
    """The layout of an opened video.

    Args:
      source: From `video.open_video`.
      config: The model's.
      tokenizer: The model's.
      chunk_segments: Segments of a chunk; fewer for a shorter video.
      num_shards: Devices that a chunk is split over; its size is a multiple.
    """
    vision, limits = config.compressor.vision, config.video
    is_image = source.kind == "image"
    if is_image:
        segments: tuple[Segment, ...] = ()
        steps = (image_size(source.height, source.width, limits),)
    else:
        segments = source.segments(limits.segment_frames)
        steps = tuple(resize_steps(source.height, source.width, limits))
    count = len(segments) or 1
    chunk = min(chunk_segments, round_up_to(next_power_of_two(count), num_shards))
    padded = round_up_to(pick_bucket(count, buckets.SEGMENT_BUCKETS), chunk)
    grid = grid_of(*steps[-1], vision)
    slice_tokens, merge = output_tokens(grid, vision), vision.spatial_merge_size
    prompts = [tokenizer.prefix_row(s.slice_seconds, slice_tokens) for s in segments]
    prompts = prompts or [tokenizer.prefix_row(None, slice_tokens)]
    prompts += [prompts[-1]] * (round_up_to(count, chunk) - count)
    length = round_up_to(max(map(len, prompts)), PROMPT_ALIGNMENT)
    table = pad_rows(prompts, length, (grid[0] // merge, grid[1] // merge), tokenizer.ids)
    return VideoLayout(
        is_image=is_image,
        segments=segments,
        num_segments=count,
        padded_segments=padded,
        segment_frames=vision.temporal_patch_size if is_image else limits.segment_frames,
        steps=steps,
        chunks=tuple(_chunk(table, start, chunk) for start in range(0, count, chunk)),
        chunk_segments=chunk,
        tags_ST=_tag_table(segments, tokenizer, padded),
    )


def chunk_frames(source: Any, layout: VideoLayout) -> Iterator[np.ndarray]:
    """Yields the frames of each chunk, uint8 [C, segment_frames, H, W, 3].

    A short segment is padded with its last frame. Its prompt refers only to the slices that it has, so that
    an odd number of frames repeats the last one, as in the reference (docs/reference/tempo.md#segmentation).
    An image is one slice.
    """
    per_segment = 1 if layout.is_image else layout.segment_frames
    for frames in source.chunks(layout.chunk_segments * per_segment):
        missing = layout.chunk_segments * layout.segment_frames - len(frames)
        if missing:
            frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
        yield frames.reshape(layout.chunk_segments, layout.segment_frames, *frames.shape[1:])


def pad_question(tokenizer: Tokenizer, question: str, memory_tokens: int) -> tuple[np.ndarray, int]:
    """Ids after the video, padded so that with the memory tokens they are aligned, and their real length."""
    ids = tokenizer.question_ids(question)
    length = round_up_to(len(ids) + memory_tokens, buckets.question_alignment()) - memory_tokens
    return np.pad(np.asarray(ids, np.int32), (0, length - len(ids))), len(ids)


def prompt_of(
    layout: VideoLayout, tokenizer: Tokenizer, question: str, conversation: Sequence[Message] = ()
) -> Prompt:
    """The LLM's text around the visual block, int32, padded with -1."""
    prefix, suffix = tokenizer.chat_ids(question, conversation)
    return Prompt(_pad_ids(prefix, PROMPT_ALIGNMENT), _pad_ids(suffix, PROMPT_ALIGNMENT), layout.tags_ST)


def fit_budget_to_context(
    layout: VideoLayout,
    budget: int | None,
    *,
    memory_tokens: int,
    text_tokens: int,
    new_tokens: int,
    context_length: int,
) -> tuple[int, str | None]:
    """The budget of memory tokens that fits the context, and a warning if it is lower than `budget`.

    budget: None keeps all memory tokens. The reference implementation truncates the end of the video silently
    (docs/reference/tempo.md#llm-prompt-and-context).

    Raises:
      TempoError: The text leaves no capacity for the video, or not enough where all tokens are kept.
    """
    capacity = context_length - text_tokens - new_tokens - layout.tag_tokens
    max_visual_tokens = layout.num_segments * memory_tokens
    if capacity < 1:
        raise TempoError(
            f"The question ({text_tokens} tokens with the prompt's frame), {layout.tag_tokens} time-tag "
            f"tokens and {new_tokens} new tokens leave no room in a context of {context_length}: shorten the "
            "question, or lower max_frames or max_new_tokens."
        )
    if budget is None:
        if max_visual_tokens > capacity:
            raise TempoError(
                f"Without compression the video takes {max_visual_tokens} tokens but the context of "
                f"{context_length} has room for {capacity}: turn compression on or sample fewer frames "
                "(max_frames)."
            )
        return max_visual_tokens, None
    if min(budget, max_visual_tokens) > capacity:
        return capacity, (
            f"The budget is lowered from {budget} to {capacity} tokens to fit a context of {context_length}."
        )
    return budget, None


def _chunk(table, start: int, size: int) -> Chunk:
    part = slice(start, start + size)
    return Chunk(
        start=start,
        prompts=PromptBatch(
            table.token_ids_SL[part], table.visual_index_SL[part], table.positions_3SL[:, part]
        ),
        prompt_length_C=table.length_S[part],
        next_position_C=table.next_position_S[part],
    )


def _tag_table(segments: tuple[Segment, ...], tokenizer: Tokenizer, padded_segments: int) -> np.ndarray:
    tags = [tokenizer.tag_ids(segment.tag_seconds) for segment in segments]
    width = round_up_to(max(map(len, tags), default=1), buckets.TAG_TOKENS)
    table = np.full((padded_segments, width), -1, np.int32)
    for row, tag in zip(table, tags, strict=False):
        row[: len(tag)] = tag
    return table


def _pad_ids(ids: list[int], alignment: int) -> np.ndarray:
    padding = round_up_to(len(ids), alignment) - len(ids)
    return np.pad(np.asarray(ids, np.int32), (0, padding), constant_values=-1)
