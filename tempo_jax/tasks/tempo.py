"""Task tempo: the whole system answers conversations about videos and images (stages 0 to 3).

Next-token cross-entropy over the assembled sequence (facts/tempo.md §1.9, §4.3). A batch holds prompts, index
arrays and labels, made on the host.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.data.batch_packing import Need, Shape
from tempo_jax.data.samples import Sample, check_fits, is_text_only, llm_tokens, side_by_side
from tempo_jax.models.config import PADDING_ID, TempoConfig
from tempo_jax.models.layers import parse_remat_policies
from tempo_jax.models.qwen3_vl import PromptBatch
from tempo_jax.models.tempo import Tempo
from tempo_jax.models.vision import grid_of, output_tokens
from tempo_jax.prompts import IGNORE, IMAGE_PLACEHOLDER, Tokenizer, pad_rows
from tempo_jax.tasks import flops
from tempo_jax.tasks.base import Task, Work, frames_u8, int32, learned_positions, prompt_rows
from tempo_jax.tasks.losses import Loss, cross_entropy, positions_in

STACKS = 3  # of layers, each with a rematerialisation: vision tower, compressor, LLM


class Batch(NamedTuple):
    """B rows of conversations over a pool of P segments; static shapes, padded. Integers are int32.

    Padding segments have any content and no memory_index that points at them; padding positions
    have label IGNORE. A row holds one conversation after the other.
    """

    frames_PFHWC: jax.Array  # uint8, at the model's size
    rows: PromptBatch  # compressor prompts with room for the memory tokens
    row_length_P: jax.Array
    token_ids_BL: jax.Array
    memory_index_BL: jax.Array  # row of the pool's P*K memory tokens, -1 for text
    labels_BL: jax.Array  # of the same position, not shifted; IGNORE costs nothing
    conversation_BL: jax.Array  # number within the row, from 1; 0 on padding


def sample_size(sample: Sample, tokenizer: Tokenizer, config: TempoConfig) -> Need:
    """Of a conversation about a video or an image, as `collate` lays it out."""
    vision, memory = config.compressor.vision, config.memory_tokens
    visual = output_tokens(grid_of(*sample.frames.shape[1:3], vision), vision)
    ids, _ = tokenizer.training_prompt(sample.conversation)
    times = sample.segments(config.video.segment_frames)
    tokens = llm_tokens(ids, times, tokenizer, memory)
    if is_text_only(ids):
        return Need(0, 0, 0, tokens)
    question = len(tokenizer.question_ids(sample.query)) + memory
    rows = [
        len(tokenizer.prefix_row(seconds, visual, training=not sample.as_asked)) + question
        for seconds in [time.slice_seconds for time in times] or [None]
    ]
    return Need(len(rows), sum(rows), max(rows), tokens)


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, config: TempoConfig, shape: Shape) -> Batch:
    """One batch; samples must have frames of one size. Raises TooLong when they do not fit `shape`.

    A conversation without <image> takes no segment. (The published trainer encodes a white picture for
    it and attaches nothing of it, facts §2.5: the same numbers.)
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
            rows.append([*tokenizer.prefix_row(seconds, tokens, training=not sample.as_asked), *question])
        texts.append(_splice(ids, labels, block_ids, block_memory))
    if not rows:  # compiled programs want segments, be they nobody's
        frames.append(np.zeros((frames_per_segment, height, width, 3), np.uint8))
        rows.append(tokenizer.prefix_row(None, tokens, training=True))
    return _pad(frames, rows, texts, shape, memory, (grid[0] // merge, grid[1] // merge), tokenizer.ids)


def _splice(ids, labels, block_ids, block_memory):
    """The visual block in place of the placeholder: ids, memory index and labels, equal lengths."""
    (place,) = np.flatnonzero(ids == IMAGE_PLACEHOLDER)
    join = lambda x, block, tail: [*x[:place], *block, *tail]  # noqa: E731
    text = [-1] * len(ids)
    return (
        join(ids, block_ids, ids[place + 1 :]),
        join(text, block_memory, text[place + 1 :]),
        join(labels, [IGNORE] * len(block_ids), labels[place + 1 :]),
    )


def _pad(frames, rows, texts, shape: Shape, memory: int, merged_grid, ids) -> Batch:
    longest_row = max(map(len, rows)) + memory
    check_fits(("segments", len(rows), shape.pool), ("compressor tokens", longest_row, shape.row_length))
    frames += [frames[-1]] * (shape.pool - len(frames))
    lengths = [len(row) for row in rows]
    # Memory slots count on as text does (facts §1.4): laid out as text, embedded by the model.
    laid_out = [[*row, *[PADDING_ID] * memory] for row in rows]
    padding = shape.pool - len(rows)
    table = pad_rows([*laid_out, *[laid_out[-1]] * padding], shape.row_length, merged_grid, ids)
    token_ids, memory_index, labels, conversation = side_by_side(texts, (PADDING_ID, -1, IGNORE), shape)
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
    """The batch's summed loss. All memory tokens are used: allocation is off in training (§4.1).

    shards: parts of the batch whose conversations have segments of their own part only
      (embeddings.gather_rows).
    """
    hidden = forward(model, batch, remat=remat, shards=shards)
    # Position t predicts label t + 1.
    labels = jnp.pad(batch.labels_BL[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORE)
    return cross_entropy(model.llm.logits, hidden, labels)


def forward(model: Tempo, batch: Batch, *, remat: bool | str = True, shards: int = 1) -> jax.Array:
    """Hidden states of the LLM, [B, L, D]."""
    remat_vision, remat_text, remat_llm = parse_remat_policies(remat, STACKS)
    visual = model.compressor.encode_frames(batch.frames_PFHWC, remat=remat_vision)
    memory, _ = model.compressor(visual, batch.rows, batch.row_length_P, remat=remat_text)
    memory = memory.reshape(-1, memory.shape[-1])
    x = model.assemble(batch.token_ids_BL, batch.memory_index_BL, memory, shards)
    conversation = batch.conversation_BL
    return model.llm(x, positions_in(conversation), segment_ids_BL=conversation, remat=remat_llm)


def forward_flops(config: TempoConfig, batch: Batch) -> Iterator[flops.Part]:
    yield from flops.of_memory(config, batch)
    micro, rows, length = batch.token_ids_BL.shape
    yield flops.Part("llm", *flops.decoder(config.llm, micro * rows, length, batch.labels_BL))


def counts(batch: Batch, memory_tokens: int) -> Work:
    """Of a host batch."""
    segments = int((batch.memory_index_BL >= 0).sum()) // memory_tokens
    return Work(learned_positions(batch.labels_BL), segments * batch.frames_PFHWC.shape[2])


def abstract_batch(model, shape: Shape, frames: int, micro: int, shards: int):
    pool, texts = (micro, shards * shape.pool), (micro, shards * shape.conversations, shape.length)
    return Batch(
        frames_u8(pool, frames, shape.size),
        prompt_rows(pool, shape.row_length),
        int32(*pool),
        *(int32(*texts) for _ in range(4)),
    )


TASK = Task(
    name="tempo",
    kind="tempo",
    kinds=("image", "video", "text"),
    batch=Batch,
    stacks=STACKS,
    sample_size=sample_size,
    collate=collate,
    loss=loss,
    flops=forward_flops,
    counts=counts,
    abstract_batch=abstract_batch,
)
