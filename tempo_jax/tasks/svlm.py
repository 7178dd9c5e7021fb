"""Task svlm: the small VLM alone answers conversations about single segments, where none is published.

Next-token cross-entropy over conversations in the compressor's own prompt form, so that what it learns
holds where the compressor asks (facts/tempo.md §1.4, §3.1): <|im_start|>system … <|im_end|> | user: video,
question <|im_end|> | assistant: answer <|im_end|> | …
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.data.batch_packing import Need, Shape
from tempo_jax.data.samples import MARKS, Sample, check_fits
from tempo_jax.models.config import Qwen3VLConfig, VideoConfig
from tempo_jax.models.layers import parse_remat_policies
from tempo_jax.models.qwen3_vl import PromptBatch, Qwen3VL
from tempo_jax.models.vision import grid_of, output_tokens
from tempo_jax.prompts import IGNORE, Tokenizer, pad_rows
from tempo_jax.tasks import flops
from tempo_jax.tasks.base import Task, Work, counts_of_segments, frames_u8, int32, prompt_rows
from tempo_jax.tasks.losses import Loss, cross_entropy

STACKS = 2  # of layers, each with a rematerialisation: vision tower, LLM


class Batch(NamedTuple):
    """P conversations, each about a segment of its own; static shapes, padded. Integers are int32."""

    frames_PFHWC: jax.Array  # uint8, at the model's size
    rows: PromptBatch
    labels_PL: jax.Array  # of the same position, not shifted; IGNORE costs nothing


def sample_size(sample: Sample, tokenizer: Tokenizer, config: Qwen3VLConfig) -> Need:
    """Of a conversation about one segment, as `collate` lays it out; it marks nothing as shown."""
    if any(mark in turn["value"] for turn in sample.conversation for mark in MARKS):
        raise ValueError("an <image> mark: the task svlm takes a segment's own questions, as minireel's")
    frames = VideoConfig().segment_frames
    if not 0 < len(sample.frames) <= frames:
        raise ValueError(f"a segment of {len(sample.frames)} frames, not 1 to {frames}")
    visual = output_tokens(grid_of(*sample.frames.shape[1:3], config.vision), config.vision)
    length = len(conversation_row(sample, tokenizer, visual)[0])
    return Need(1, length, length, 0)


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, config: Qwen3VLConfig, shape: Shape) -> Batch:
    """One batch of frames of one size. Raises TooLong when the samples do not fit `shape`.

    A sample's conversation: optionally a turn from "system", then "human" and "gpt" in turn; what the
    assistant says is learned, with the end of its turn. A sample has at most a segment's frames.
    """
    vision = config.vision
    grid = grid_of(*samples[0].frames.shape[1:3], vision)
    tokens, merge = output_tokens(grid, vision), vision.spatial_merge_size
    rows, labels = zip(*(conversation_row(sample, tokenizer, tokens) for sample in samples), strict=True)
    check_fits(
        ("segments", len(rows), shape.pool), ("compressor tokens", max(map(len, rows)), shape.row_length)
    )
    padding = shape.pool - len(rows)
    merged_grid = (grid[0] // merge, grid[1] // merge)
    table = pad_rows([*rows, *[rows[-1]] * padding], shape.row_length, merged_grid, tokenizer.ids)
    labels_PL = np.full((shape.pool, shape.row_length), IGNORE, np.int32)
    for row, learned in zip(labels_PL, labels):
        row[: len(learned)] = learned
    frames = _same_count([sample.frames for sample in samples])
    return Batch(
        frames_PFHWC=np.stack([*frames, *[frames[-1]] * padding]),
        rows=PromptBatch(table.token_ids_SL, table.visual_index_SL, table.positions_3SL),
        labels_PL=labels_PL,
    )


def _same_count(clips: list[np.ndarray]) -> list[np.ndarray]:
    """Shorter clips repeat their last frame; their rows do not point at what comes of it."""
    count = max(map(len, clips))
    return [np.concatenate([clip[:], np.repeat(clip[-1:], count - len(clip), axis=0)]) for clip in clips]


def conversation_row(sample: Sample, tokenizer: Tokenizer, tokens: int) -> tuple[list[int], list[int]]:
    """Ids and labels of one conversation, equal lengths."""
    turns = list(sample.conversation)
    system = turns.pop(0)["value"] if turns[0]["from"] == "system" else None
    times = sample.segments(len(sample.frames))
    seconds = times[0].slice_seconds if times else None
    ids = tokenizer.video_row(system, seconds, tokens)
    labels = [IGNORE] * len(ids)
    for number, turn in enumerate(turns):
        if turn["from"] == "human":
            header = tokenizer.encode("user\n") if number else []
            piece = [*([tokenizer.ids.im_start, *header] if number else []), *tokenizer.encode(turn["value"])]
            piece += [tokenizer.ids.im_end, tokenizer.ids.newline, *tokenizer.assistant_header]
            ids, labels = ids + piece, labels + [IGNORE] * len(piece)
        else:
            piece = [*tokenizer.encode(turn["value"]), tokenizer.ids.im_end]
            ids, labels = [*ids, *piece, tokenizer.ids.newline], [*labels, *piece, IGNORE]
    return ids, labels


def loss(model: Qwen3VL, batch: Batch, *, remat: bool | str = True) -> Loss:
    """The batch's summed loss."""
    remat_vision, remat_text = parse_remat_policies(remat, STACKS)
    visual = model.encode_frames(batch.frames_PFHWC, remat=remat_vision)
    hidden = model(visual, batch.rows, remat=remat_text)
    labels = jnp.pad(batch.labels_PL[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORE)
    return cross_entropy(model.text.logits, hidden, labels)


def forward_flops(config: Qwen3VLConfig, batch: Batch) -> Iterator[flops.Part]:
    yield flops.Part("vision", *flops.vision(config.vision, batch.frames_PFHWC.shape))
    micro, pool, length = batch.rows.token_ids_SL.shape
    yield flops.Part("svlm", *flops.decoder(config.text, micro * pool, length, batch.labels_PL))


def counts(batch: Batch, memory_tokens: int) -> Work:
    """Of a host batch."""
    return counts_of_segments(batch, batch.labels_PL)


def abstract_batch(model: Qwen3VLConfig, shape: Shape, frames: int, micro: int, shards: int):
    pool = (micro, shards * shape.pool)
    return Batch(
        frames_u8(pool, frames, shape.size),
        prompt_rows(pool, shape.row_length),
        int32(*pool, shape.row_length),
    )


TASK = Task(
    name="svlm",
    kind="qwen3-vl",
    kinds=(),
    batch=Batch,
    stacks=STACKS,
    sample_size=sample_size,
    collate=collate,
    loss=loss,
    flops=forward_flops,
    counts=counts,
    abstract_batch=abstract_batch,
)
