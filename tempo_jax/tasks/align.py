"""Task align: trains memory tokens to spell segment evidence in the LLM's embedding; the LLM is not run.

A task of this project; the paper aligns with captions alone (docs/reference/tempo.md#training). A small LLM
trained from scratch is slow to make use of memory tokens. Here each memory token has a target word: the
segment's evidence, repeated. The relevance prior is trained along with it, since it would be forgotten
otherwise.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.data.batch_packing import BatchShape, SampleSize
from tempo_jax.data.minireel.questions import NOTHING
from tempo_jax.data.samples import Sample
from tempo_jax.models.config import TempoConfig
from tempo_jax.models.layers import parse_remat_policies
from tempo_jax.models.qwen3_vl import PromptBatch
from tempo_jax.models.tempo import Tempo
from tempo_jax.prompts import IGNORE, Tokenizer
from tempo_jax.tasks import flops, tempo
from tempo_jax.tasks.base import Task, TokenCounts, frames_u8, int32, prompt_rows, segment_token_counts
from tempo_jax.tasks.losses import Loss

TAG = re.compile(r"<[\d.]+ seconds>")
INVERSE_TEMPERATURE = 8.0  # of the softmax over squared distances, relative to the embeddings' mean square
RELEVANCE_WEIGHT = 4.0  # weight of a segment's relevance loss, in words

NUM_REMAT_STACKS = 2  # vision tower, compressor


class Batch(NamedTuple):
    """P segments with M memory tokens each; static shapes, padded. Integers are int32."""

    frames_PFHWC: jax.Array  # uint8, at the model's frame size
    rows: PromptBatch  # compressor prompts, with slots for the memory tokens
    row_length_P: jax.Array
    labels_PM: jax.Array  # target word of each memory token; IGNORE is masked
    relevant_P: jax.Array  # 1 or 0; IGNORE is masked


def sample_size(sample: Sample, tokenizer: Tokenizer, config: TempoConfig) -> SampleSize:
    """Returns the size of a video whose last turn has the evidence of each segment."""
    sample_size_ = tempo.sample_size(sample, tokenizer, config)
    notes = len(TAG.split(sample.conversation[-1]["value"])) - 1
    if notes != sample_size_.segments:
        raise ValueError(
            f"{notes} notes for {sample_size_.segments} segments: the task align takes minireel's notes"
        )
    return sample_size_


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, config: TempoConfig, shape: BatchShape) -> Batch:
    """Makes one batch: segments as in task tempo, with the target words of their memory tokens.

    The last turn of a conversation has the evidence of each segment after its time tag. It is repeated until
    every memory token has a word, so that any number of kept tokens spells it.

    Raises:
      ValueError: The number of evidence texts is not that of the segments.
    """
    batch = tempo.collate(samples, tokenizer, config, shape)
    notes = [note for sample in samples for note in TAG.split(sample.conversation[-1]["value"])[1:]]
    memory = config.memory_tokens
    segments = (batch.memory_index_BL.max() + 1) // memory
    if segments != len(notes):
        raise ValueError(f"{len(notes)} notes for {segments} segments")
    labels = np.full((shape.segments, memory), IGNORE, np.int32)
    relevant = np.full(shape.segments, IGNORE, np.int32)
    for segment, note in enumerate(notes):
        labels[segment] = np.resize(tokenizer.encode(note), memory)
        relevant[segment] = note != f" {NOTHING}"
    return Batch(batch.frames_PFHWC, batch.rows, batch.row_length_P, labels, relevant)


def loss(model: Tempo, batch: Batch, *, remat: bool | str = True) -> Loss:
    """Returns the summed loss; its denominator counts words, not relevance labels.

    Per word: cross-entropy of softmax(-INVERSE_TEMPERATURE * distance) over the vocabulary, plus the distance
    to the label's embedding, where distances are squared and relative to the embeddings' mean square. So
    projected memory tokens become embeddings of words, in direction and in length. Per segment: binary
    cross-entropy of the relevance (docs/reference/tempo.md#relevance).
    """
    remat_vision, remat_text = parse_remat_policies(remat, NUM_REMAT_STACKS)
    visual = model.compressor.encode_frames(batch.frames_PFHWC, remat=remat_vision)
    memory_PMD, relevance_P = model.compressor(visual, batch.rows, batch.row_length_P, remat=remat_text)
    projected = model.projector(memory_PMD).astype(jnp.float32)
    table = model.llm.embed.embedding[...].astype(jnp.float32)
    squared_norm = jnp.sum(table**2, axis=-1)
    distance = (
        jnp.sum(projected**2, axis=-1, keepdims=True) - 2 * projected @ table.T + squared_norm
    ) / jnp.mean(squared_norm)
    is_labeled = batch.labels_PM != IGNORE
    label_distance = jnp.take_along_axis(distance, jnp.maximum(batch.labels_PM, 0)[..., None], axis=-1)[
        ..., 0
    ]
    token_loss = (
        jax.nn.logsumexp(-INVERSE_TEMPERATURE * distance, axis=-1)
        + INVERSE_TEMPERATURE * label_distance
        + label_distance
    )
    relevance = jnp.clip(relevance_P.astype(jnp.float32), 1e-6, 1 - 1e-6)
    bce = -jnp.log(jnp.where(batch.relevant_P == 1, relevance, 1 - relevance))
    total = jnp.sum(jnp.where(is_labeled, token_loss, 0.0))
    total += RELEVANCE_WEIGHT * jnp.sum(jnp.where(batch.relevant_P != IGNORE, bce, 0.0))
    return Loss(total, jnp.sum(is_labeled, dtype=jnp.float32))


def forward_flops(config: TempoConfig, batch: Batch) -> Iterator[flops.ModuleFlops]:
    """Yields the FLOPs of the modules; of the LLM, the embedding alone is used."""
    yield from flops.memory_flops(config, batch)
    micro, pool, memory = batch.labels_PM.shape
    yield flops.ModuleFlops(
        "llm", 2.0 * micro * pool * memory * config.llm.hidden_size * config.llm.vocab_size, 0.0
    )


def counts(batch: Batch, memory_tokens: int) -> TokenCounts:
    """Counts the tokens and frames of a host batch."""
    return segment_token_counts(batch, batch.labels_PM)


def abstract_batch(model, shape: BatchShape, frames: int, micro: int, shards: int):
    pool = (micro, shards * shape.segments)
    return Batch(
        frames_u8(pool, frames, shape.size),
        prompt_rows(pool, shape.compressor_length),
        int32(*pool),
        int32(*pool, model.memory_tokens),
        int32(*pool),
    )


TASK = Task(
    name="align",
    kind="tempo",
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
