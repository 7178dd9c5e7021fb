"""Task compressor: trains the compressor VLM alone on conversations about single segments.

For a model whose compressor does not start from a published VLM. Next-token cross-entropy over conversations
in the prompt format that the compressor has in Tempo (docs/reference/tempo.md#positions,
docs/reference/tempo.md#relevance): <|im_start|>system … <|im_end|> | user: video, question <|im_end|> |
assistant: answer <|im_end|> | …
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.data.batch_packing import BatchShape, SampleSize
from tempo_jax.data.samples import MARKS, Sample, check_capacity
from tempo_jax.models.config import Qwen3VLConfig, VideoConfig
from tempo_jax.models.layers import parse_remat_policies
from tempo_jax.models.qwen3_vl import PromptBatch, Qwen3VL
from tempo_jax.models.vision import grid_of, output_tokens
from tempo_jax.prompts import IGNORE, Tokenizer, pad_rows
from tempo_jax.tasks import flops
from tempo_jax.tasks.base import Task, TokenCounts, frames_u8, int32, prompt_rows, segment_token_counts
from tempo_jax.tasks.losses import Loss, cross_entropy

NUM_REMAT_STACKS = 2  # vision tower, decoder


class Batch(NamedTuple):
    """P conversations about one segment each; static shapes, padded. Integers are int32."""

    frames_PFHWC: jax.Array  # uint8, at the model's frame size
    rows: PromptBatch
    labels_PL: jax.Array  # of the same position, not shifted; IGNORE is masked


def sample_size(sample: Sample, tokenizer: Tokenizer, config: Qwen3VLConfig) -> SampleSize:
    """Returns the size of a conversation about one segment, which has no <image> mark."""
    if any(mark in turn["value"] for turn in sample.conversation for mark in MARKS):
        raise ValueError(
            "an <image> mark: the task compressor takes a segment's own questions, as minireel's"
        )
    frames = VideoConfig().segment_frames
    if not 0 < len(sample.frames) <= frames:
        raise ValueError(f"a segment of {len(sample.frames)} frames, not 1 to {frames}")
    visual = output_tokens(grid_of(*sample.frames.shape[1:3], config.vision), config.vision)
    length = len(conversation_row(sample, tokenizer, visual)[0])
    return SampleSize(1, length, length, 0)


def collate(
    samples: Sequence[Sample], tokenizer: Tokenizer, config: Qwen3VLConfig, shape: BatchShape
) -> Batch:
    """Makes one batch of samples with frames of one size and at most a segment's number of frames.

    A conversation is optionally a turn from "system", then "human" and "gpt" in turn. Labels are the
    assistant's tokens and the end of its turns.

    Raises:
      SampleTooLong: The samples do not fit `shape`.
    """
    vision = config.vision
    grid = grid_of(*samples[0].frames.shape[1:3], vision)
    tokens, merge = output_tokens(grid, vision), vision.spatial_merge_size
    rows, labels = zip(*(conversation_row(sample, tokenizer, tokens) for sample in samples), strict=True)
    check_capacity(
        ("segments", len(rows), shape.segments),
        ("compressor tokens", max(map(len, rows)), shape.compressor_length),
    )
    padding = shape.segments - len(rows)
    merged_grid = (grid[0] // merge, grid[1] // merge)
    table = pad_rows([*rows, *[rows[-1]] * padding], shape.compressor_length, merged_grid, tokenizer.ids)
    labels_PL = np.full((shape.segments, shape.compressor_length), IGNORE, np.int32)
    for row, learned in zip(labels_PL, labels):
        row[: len(learned)] = learned
    frames = _same_count([sample.frames for sample in samples])
    return Batch(
        frames_PFHWC=np.stack([*frames, *[frames[-1]] * padding]),
        rows=PromptBatch(table.token_ids_SL, table.visual_index_SL, table.positions_3SL),
        labels_PL=labels_PL,
    )


def _same_count(clips: list[np.ndarray]) -> list[np.ndarray]:
    """Pads shorter clips by their last frame; their prompts do not index the padding."""
    count = max(map(len, clips))
    return [np.concatenate([clip[:], np.repeat(clip[-1:], count - len(clip), axis=0)]) for clip in clips]


def conversation_row(sample: Sample, tokenizer: Tokenizer, tokens: int) -> tuple[list[int], list[int]]:
    """Returns ids and labels of one conversation, of equal length."""
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
    """Returns the summed loss of the batch."""
    remat_vision, remat_text = parse_remat_policies(remat, NUM_REMAT_STACKS)
    visual = model.encode_frames(batch.frames_PFHWC, remat=remat_vision)
    hidden = model(visual, batch.rows, remat=remat_text)
    labels = jnp.pad(batch.labels_PL[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORE)
    return cross_entropy(model.text.logits, hidden, labels)


def forward_flops(config: Qwen3VLConfig, batch: Batch) -> Iterator[flops.ModuleFlops]:
    yield flops.ModuleFlops("vision", *flops.vision(config.vision, batch.frames_PFHWC.shape))
    micro, pool, length = batch.rows.token_ids_SL.shape
    yield flops.ModuleFlops("compressor", *flops.decoder(config.text, micro * pool, length, batch.labels_PL))


def counts(batch: Batch, memory_tokens: int) -> TokenCounts:
    """Counts the tokens and frames of a host batch."""
    return segment_token_counts(batch, batch.labels_PL)


def abstract_batch(model: Qwen3VLConfig, shape: BatchShape, frames: int, micro: int, shards: int):
    pool = (micro, shards * shape.segments)
    return Batch(
        frames_u8(pool, frames, shape.size),
        prompt_rows(pool, shape.compressor_length),
        int32(*pool, shape.compressor_length),
    )


TASK = Task(
    name="compressor",
    kind="qwen3-vl",
    kinds=(),
    batch=Batch,
    num_remat_stacks=NUM_REMAT_STACKS,
    sample_size=sample_size,
    collate=collate,
    loss=loss,
    flops=forward_flops,
    counts=counts,
    abstract_batch=abstract_batch,
)
