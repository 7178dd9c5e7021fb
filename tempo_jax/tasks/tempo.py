"""Task tempo: trains the whole system on conversations about videos and images (stages 0 to 3).

Next-token cross-entropy over the assembled sequence (docs/reference/tempo.md#llm-prompt-and-context,
docs/reference/tempo.md#labels). A batch holds prompts, index arrays and labels, which the host makes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.data.batch_packing import BatchShape, SampleSize
from tempo_jax.data.samples import Sample, check_capacity, is_text_only, llm_tokens, pack_sequences
from tempo_jax.models.config import PADDING_ID, TempoConfig
from tempo_jax.models.layers import parse_remat_policies
from tempo_jax.models.qwen3_vl import PromptBatch
from tempo_jax.models.tempo import Tempo
from tempo_jax.models.vision import grid_of, output_tokens
from tempo_jax.prompts import IGNORE, IMAGE_PLACEHOLDER, Tokenizer, pad_rows
from tempo_jax.tasks import flops
from tempo_jax.tasks.base import Task, TokenCounts, frames_u8, int32, labeled_positions, prompt_rows
from tempo_jax.tasks.losses import Loss, cross_entropy, positions_in

NUM_REMAT_STACKS = 3  # vision tower, compressor, LLM


class Batch(NamedTuple):
    """B sequences of packed conversations over a buffer of P segments; static shapes, padded, int32.

    Padding segments have arbitrary content, and no memory_index refers to them; padding positions have the
    label IGNORE.
    """

    frames_PFHWC: jax.Array  # uint8, at the model's size
    rows: PromptBatch  # compressor prompts, with slots for the memory tokens
    row_length_P: jax.Array
    token_ids_BL: jax.Array
    memory_index_BL: jax.Array  # index into the P*K memory tokens, -1 for text
    labels_BL: jax.Array  # of the same position, not shifted; IGNORE is masked
    conversation_BL: jax.Array  # index of the conversation in its sequence, from 1; 0 on padding


def sample_size(sample: Sample, tokenizer: Tokenizer, config: TempoConfig) -> SampleSize:
    """Returns the size of a conversation about a video or an image, as `collate` lays it out."""
    vision, memory = config.compressor.vision, config.memory_tokens
    visual = output_tokens(grid_of(*sample.frames.shape[1:3], vision), vision)
    ids, _ = tokenizer.training_prompt(sample.conversation)
    times = sample.segments(config.video.segment_frames)
    tokens = llm_tokens(ids, times, tokenizer, memory)
    if is_text_only(ids):
        return SampleSize(0, 0, 0, tokens)
    question = len(tokenizer.question_ids(sample.query)) + memory
    rows = [
        len(tokenizer.prefix_row(seconds, visual, training=not sample.inference_prompt)) + question
        for seconds in [time.slice_seconds for time in times] or [None]
    ]
    return SampleSize(len(rows), sum(rows), max(rows), tokens)


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, config: TempoConfig, shape: BatchShape) -> Batch:
    """Makes one batch of samples with frames of one size.

    A conversation without <image> takes no segment. (The reference trainer encodes a white image for it and
    does not use its tokens, docs/reference/tempo.md#images: the same numbers.)
    """
    frames_per_segment, memory = config.video.segment_frames, config.memory_tokens
    vision = config.compressor.vision
    height, width = shape.size or samples[0].frames.shape[1:3]
    grid = grid_of(height, width, vision)
    tokens, merge = output_tokens(grid, vision), vision.spatial_merge_size
    frames, rows, texts = [], [], []
    for sample in samples:
        ids, labels = tokenizer.training_prompt(sample.conversation)
        if is_text_only(ids):
            texts.append((ids, np.full(len(ids), -1), labels))
            continue
        times = sample.segments(frames_per_segment)
        question = tokenizer.question_ids(sample.query)
        block_ids, block_memory = [], []
        for time in times or [None]:
            seconds = time and time.slice_seconds
            part = sample.frames if time is None else sample.frames[time.start : time.stop]
            start = len(rows) * memory
            tag = [] if time is None else tokenizer.tag_ids(time.tag_seconds)
            block_ids += [*tag, *[PADDING_ID] * memory]
            block_memory += [*[-1] * len(tag), *range(start, start + memory)]
            missing = frames_per_segment - len(part)
            frames.append(np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]))
            rows.append(
                [*tokenizer.prefix_row(seconds, tokens, training=not sample.inference_prompt), *question]
            )
        texts.append(_splice(ids, labels, block_ids, block_memory))
    if not rows:  # compiled programs need at least one segment
        frames.append(np.zeros((frames_per_segment, height, width, 3), np.uint8))
        rows.append(tokenizer.prefix_row(None, tokens, training=True))
    return _pad(frames, rows, texts, shape, memory, (grid[0] // merge, grid[1] // merge), tokenizer.ids)


def _splice(ids, labels, block_ids, block_memory):
    """Replaces the placeholder by the visual block; returns ids, memory index and labels of equal length."""
    (place,) = np.flatnonzero(ids == IMAGE_PLACEHOLDER)
    join = lambda x, block, tail: [*x[:place], *block, *tail]  # noqa: E731
    text = [-1] * len(ids)
    return (
        join(ids, block_ids, ids[place + 1 :]),
        join(text, block_memory, text[place + 1 :]),
        join(labels, [IGNORE] * len(block_ids), labels[place + 1 :]),
    )


def _pad(frames, rows, texts, shape: BatchShape, memory: int, merged_grid, ids) -> Batch:
    longest_row = max(map(len, rows)) + memory
    check_capacity(
        ("segments", len(rows), shape.segments), ("compressor tokens", longest_row, shape.compressor_length)
    )
    frames += [frames[-1]] * (shape.segments - len(frames))
    lengths = [len(row) for row in rows]
    # Memory slots count on as text does (docs/reference/tempo.md#positions): laid out as text, embedded by
    # the model.
    laid_out = [[*row, *[PADDING_ID] * memory] for row in rows]
    padding = shape.segments - len(rows)
    table = pad_rows([*laid_out, *[laid_out[-1]] * padding], shape.compressor_length, merged_grid, ids)
    token_ids, memory_index, labels, conversation = pack_sequences(texts, (PADDING_ID, -1, IGNORE), shape)
    return Batch(
        frames_PFHWC=np.stack(frames),
        rows=PromptBatch(table.token_ids_SL, table.visual_index_SL, table.positions_3SL),
        row_length_P=np.asarray([*lengths, *[lengths[-1]] * padding], np.int32),
        token_ids_BL=token_ids,
        memory_index_BL=memory_index,
        labels_BL=labels,
        conversation_BL=conversation,
    )


def loss(model: Tempo, batch: Batch, *, remat: bool | str = True, shards: int = 1) -> Loss:
    """Returns the summed loss of the batch.

    All memory tokens are used: allocation is off in training (docs/reference/tempo.md#training).

    Args:
      model: The system.
      batch: One micro-batch.
      remat: Rematerialization policies of vision tower, compressor and LLM.
      shards: Number of data shards; sequences of a shard refer only to its own segments.
    """
    hidden = forward(model, batch, remat=remat, shards=shards)
    # Position t predicts label t + 1.
    labels = jnp.pad(batch.labels_BL[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORE)
    return cross_entropy(model.llm.logits, hidden, labels)


def forward(model: Tempo, batch: Batch, *, remat: bool | str = True, shards: int = 1) -> jax.Array:
    """Returns the hidden states of the LLM, [B, L, D]."""
    remat_vision, remat_text, remat_llm = parse_remat_policies(remat, NUM_REMAT_STACKS)
    visual = model.compressor.encode_frames(batch.frames_PFHWC, remat=remat_vision)
    memory, _ = model.compressor(visual, batch.rows, batch.row_length_P, remat=remat_text)
    memory = memory.reshape(-1, memory.shape[-1])
    x = model.assemble(batch.token_ids_BL, batch.memory_index_BL, memory, shards)
    conversation = batch.conversation_BL
    return model.llm(x, positions_in(conversation), segment_ids_BL=conversation, remat=remat_llm)


def forward_flops(config: TempoConfig, batch: Batch) -> Iterator[flops.ModuleFlops]:
    yield from flops.memory_flops(config, batch)
    micro, rows, length = batch.token_ids_BL.shape
    yield flops.ModuleFlops("llm", *flops.decoder(config.llm, micro * rows, length, batch.labels_BL))


def counts(batch: Batch, memory_tokens: int) -> TokenCounts:
    """Counts the tokens and frames of a host batch."""
    segments = int((batch.memory_index_BL >= 0).sum()) // memory_tokens
    return TokenCounts(labeled_positions(batch.labels_BL), segments * batch.frames_PFHWC.shape[2])


def abstract_batch(model, shape: BatchShape, frames: int, micro: int, shards: int):
    pool, texts = (micro, shards * shape.segments), (micro, shards * shape.sequences, shape.sequence_length)
    return Batch(
        frames_u8(pool, frames, shape.size),
        prompt_rows(pool, shape.compressor_length),
        int32(*pool),
        *(int32(*texts) for _ in range(4)),
    )


TASK = Task(
    name="tempo",
    kind="tempo",
    kinds=("image", "video", "text"),
    batch=Batch,
    num_remat_stacks=NUM_REMAT_STACKS,
    sample_size=sample_size,
    collate=collate,
    loss=loss,
    flops=forward_flops,
    counts=counts,
    abstract_batch=abstract_batch,
)
