"""How one video is cut into chunks, prompt rows and time tags. Host side, numpy only."""

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
    """C segments that go through the compressor together; those past the video's end are padding."""

    start: int  # its first segment
    rows: PromptBatch
    length_C: np.ndarray
    next_position_C: np.ndarray


@dataclasses.dataclass(frozen=True)
class VideoLayout:
    """Everything about a video that does not depend on a question."""

    is_image: bool
    segments: tuple[Segment, ...]  # empty for an image
    num_segments: int
    padded_segments: int
    segment_frames: int
    steps: tuple[tuple[int, int], ...]  # (height, width) after each resampling
    chunks: tuple[Chunk, ...]
    chunk_segments: int
    tags_ST: np.ndarray  # int32, padded with -1

    @property
    def tag_tokens(self) -> int:
        return int(np.sum(self.tags_ST >= 0))


def make_layout(
    source: Any, config: TempoConfig, tokenizer: Tokenizer, chunk: int, shards: int
) -> VideoLayout:
    """The layout of an opened video; a chunk is `chunk` segments or fewer, a multiple of `shards`."""
    vision, limits = config.compressor.vision, config.video
    is_image = source.kind == "image"
    if is_image:
        times: tuple[Segment, ...] = ()
        steps = (image_size(source.height, source.width, limits),)
    else:
        times = source.segments(limits.segment_frames)
        steps = tuple(resize_steps(source.height, source.width, limits))
    count = len(times) or 1
    chunk = min(chunk, round_up_to(next_power_of_two(count), shards))
    padded = round_up_to(pick_bucket(count, buckets.SEGMENT_BUCKETS), chunk)
    grid = grid_of(*steps[-1], vision)
    tokens, merge = output_tokens(grid, vision), vision.spatial_merge_size
    rows = [tokenizer.prefix_row(s.slice_seconds, tokens) for s in times]
    rows = rows or [tokenizer.prefix_row(None, tokens)]
    rows += [rows[-1]] * (round_up_to(count, chunk) - count)
    table = pad_rows(
        rows,
        round_up_to(max(map(len, rows)), PROMPT_ALIGNMENT),
        (grid[0] // merge, grid[1] // merge),
        tokenizer.ids,
    )
    return VideoLayout(
        is_image=is_image,
        segments=times,
        num_segments=count,
        padded_segments=padded,
        segment_frames=vision.temporal_patch_size if is_image else limits.segment_frames,
        steps=steps,
        chunks=tuple(_chunk(table, start, chunk) for start in range(0, count, chunk)),
        chunk_segments=chunk,
        tags_ST=_tags(times, tokenizer, padded),
    )


def chunk_frames(source: Any, layout: VideoLayout) -> Iterator[np.ndarray]:
    """uint8 [C, segment_frames, H, W, 3] per chunk.

    A short segment is filled with its last frame: its prompt row only points at the slices it has,
    and an odd count thus doubles its last frame, as published (facts §2.2). An image is one slice.
    """
    per_segment = 1 if layout.is_image else layout.segment_frames
    for frames in source.chunks(layout.chunk_segments * per_segment):
        missing = layout.chunk_segments * layout.segment_frames - len(frames)
        if missing:
            frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
        yield frames.reshape(layout.chunk_segments, layout.segment_frames, *frames.shape[1:])


def pad_question(tokenizer: Tokenizer, question: str, memory_tokens: int) -> tuple[np.ndarray, int]:
    """Ids after the video, padded so that they and the memory tokens fill whole rows; real length."""
    ids = tokenizer.question_ids(question)
    length = round_up_to(len(ids) + memory_tokens, PROMPT_ALIGNMENT) - memory_tokens
    return np.pad(np.asarray(ids, np.int32), (0, length - len(ids))), len(ids)


def prompt_of(
    layout: VideoLayout, tokenizer: Tokenizer, question: str, conversation: Sequence[Message] = ()
) -> Prompt:
    """The LLM's text around the visual block, int32, padded with -1."""
    prefix, suffix = tokenizer.chat_ids(question, conversation)
    return Prompt(_padded(prefix, PROMPT_ALIGNMENT), _padded(suffix, PROMPT_ALIGNMENT), layout.tags_ST)


def fit_budget_to_context(
    layout: VideoLayout,
    budget: int | None,
    *,
    memory_tokens: int,
    text_tokens: int,
    new_tokens: int,
    context: int,
) -> tuple[int, str | None]:
    """The memory tokens that fit the context, and a sentence if that is less than asked for.

    budget None: nothing is allocated away, all must fit. Unlike the released code, which cuts the
    end of the video without a word (facts §1.9), raises TempoError when it cannot.
    """
    room = context - text_tokens - new_tokens - layout.tag_tokens
    everything = layout.num_segments * memory_tokens
    if room < 1:
        raise TempoError(
            f"The question ({text_tokens} tokens with the prompt's frame), {layout.tag_tokens} time-tag "
            f"tokens and {new_tokens} new tokens leave no room in a context of {context}: shorten the "
            "question, or lower max_frames or max_new_tokens."
        )
    if budget is None:
        if everything > room:
            raise TempoError(
                f"Without compression the video takes {everything} tokens but the context of {context} has "
                f"room for {room}: turn compression on or sample fewer frames (max_frames)."
            )
        return everything, None
    if min(budget, everything) > room:
        return room, f"The budget is lowered from {budget} to {room} tokens to fit a context of {context}."
    return budget, None


def _chunk(table, start: int, chunk: int) -> Chunk:
    part = slice(start, start + chunk)
    return Chunk(
        start=start,
        rows=PromptBatch(table.token_ids_SL[part], table.visual_index_SL[part], table.positions_3SL[:, part]),
        length_C=table.length_S[part],
        next_position_C=table.next_position_S[part],
    )


def _tags(times: tuple[Segment, ...], tokenizer: Tokenizer, padded: int) -> np.ndarray:
    tags = [tokenizer.tag_ids(s.tag_seconds) for s in times]
    width = round_up_to(max(map(len, tags), default=1), buckets.TAG_TOKENS)
    table = np.full((padded, width), -1, np.int32)
    for row, tag in zip(table, tags, strict=False):
        row[: len(tag)] = tag
    return table


def _padded(ids: list[int], step: int) -> np.ndarray:
    return np.pad(np.asarray(ids, np.int32), (0, round_up_to(len(ids), step) - len(ids)), constant_values=-1)
