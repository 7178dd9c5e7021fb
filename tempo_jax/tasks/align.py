"""Task align: memory tokens say notes, read with the LLM's own embedding; the LLM is not run.

Ours; the published system aligns with captions alone (facts/tempo.md §4.1). A small LLM trained from
nothing learns to read memory tokens slowly: here each slot has a word of its own to say, the answer's note
of its segment again and again. The relevance prior goes on being trained beside it, since it would be
forgotten otherwise.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.data.batch_packing import Need, Shape
from tempo_jax.data.minireel.segments import NOTHING
from tempo_jax.data.samples import Sample
from tempo_jax.models.config import TempoConfig
from tempo_jax.models.layers import parse_remat_policies
from tempo_jax.models.qwen3_vl import PromptBatch
from tempo_jax.models.tempo import Tempo
from tempo_jax.prompts import IGNORE, Tokenizer
from tempo_jax.tasks import flops, tempo
from tempo_jax.tasks.base import Task, Work, counts_of_segments, frames_u8, int32, prompt_rows
from tempo_jax.tasks.losses import Loss

TAG = re.compile(r"<[\d.]+ seconds>")
SHARPNESS = 8.0  # of the softmax over squared distances, in units of the embeddings' mean square
RELEVANCE_WEIGHT = 4.0  # a segment's relevance costs as much as so many of its words

STACKS = 2  # of layers, each with a rematerialisation: vision tower, compressor


class Batch(NamedTuple):
    """P segments with M memory tokens each; static shapes, padded. Integers are int32."""

    frames_PFHWC: jax.Array  # uint8, at the model's size
    rows: PromptBatch  # compressor prompts with room for the memory tokens
    row_length_P: jax.Array
    labels_PM: jax.Array  # the word of each memory token; IGNORE costs nothing
    relevant_P: jax.Array  # 1 or 0; IGNORE costs nothing


def sample_size(sample: Sample, tokenizer: Tokenizer, config: TempoConfig) -> Need:
    """Of a video whose last turn has a note for each segment, as `collate` lays it out."""
    need = tempo.sample_size(sample, tokenizer, config)
    notes = len(TAG.split(sample.conversation[-1]["value"])) - 1
    if notes != need.segments:
        raise ValueError(f"{notes} notes for {need.segments} segments: the task align takes minireel's notes")
    return need


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, config: TempoConfig, shape: Shape) -> Batch:
    """Segments as task tempo lays them out, with what their memory tokens are to say.

    The last turn of a conversation has a note for each segment, after its time tag. A note is repeated until
    every slot has a word, so that whatever number of them is kept says it. ValueError where notes and
    segments do not agree.
    """
    batch = tempo.collate(samples, tokenizer, config, shape)
    notes = [note for sample in samples for note in TAG.split(sample.conversation[-1]["value"])[1:]]
    memory = config.memory_tokens
    segments = (batch.memory_index_BL.max() + 1) // memory
    if segments != len(notes):
        raise ValueError(f"{len(notes)} notes for {segments} segments")
    labels = np.full((shape.pool, memory), IGNORE, np.int32)
    relevant = np.full(shape.pool, IGNORE, np.int32)
    for segment, note in enumerate(notes):
        labels[segment] = np.resize(tokenizer.encode(note), memory)
        relevant[segment] = note != f" {NOTHING}"
    return Batch(batch.frames_PFHWC, batch.rows, batch.row_length_P, labels, relevant)


def loss(model: Tempo, batch: Batch, *, remat: bool | str = True) -> Loss:
    """The batch's summed loss; words are counted, relevance is not.

    Per word: cross-entropy of softmax(-SHARPNESS * distance) over the vocabulary, plus the distance to the
    label's own embedding; distance: squared, as a share of the embeddings' mean square. So projected memory
    tokens become embeddings of words, in direction and in length. Per segment: binary cross-entropy of the
    relevance (facts/tempo.md §3.1).
    """
    remat_vision, remat_text = parse_remat_policies(remat, STACKS)
    visual = model.compressor.encode_frames(batch.frames_PFHWC, remat=remat_vision)
    memory_PMD, relevance_P = model.compressor(visual, batch.rows, batch.row_length_P, remat=remat_text)
    said = model.projector(memory_PMD).astype(jnp.float32)
    table = model.llm.embed.embedding[...].astype(jnp.float32)
    size = jnp.sum(table**2, axis=-1)
    distance = (jnp.sum(said**2, axis=-1, keepdims=True) - 2 * said @ table.T + size) / jnp.mean(size)
    known = batch.labels_PM != IGNORE
    own = jnp.take_along_axis(distance, jnp.maximum(batch.labels_PM, 0)[..., None], axis=-1)[..., 0]
    words = jax.nn.logsumexp(-SHARPNESS * distance, axis=-1) + SHARPNESS * own + own
    chance = jnp.clip(relevance_P.astype(jnp.float32), 1e-6, 1 - 1e-6)
    doubt = -jnp.log(jnp.where(batch.relevant_P == 1, chance, 1 - chance))
    total = jnp.sum(jnp.where(known, words, 0.0))
    total += RELEVANCE_WEIGHT * jnp.sum(jnp.where(batch.relevant_P != IGNORE, doubt, 0.0))
    return Loss(total, jnp.sum(known, dtype=jnp.float32))


def forward_flops(config: TempoConfig, batch: Batch) -> Iterator[flops.Part]:
    """Of the LLM its embedding alone."""
    yield from flops.of_memory(config, batch)
    micro, pool, memory = batch.labels_PM.shape
    yield flops.Part("llm", 2.0 * micro * pool * memory * config.llm.hidden_size * config.llm.vocab_size, 0.0)


def counts(batch: Batch, memory_tokens: int) -> Work:
    """Of a host batch."""
    return counts_of_segments(batch, batch.labels_PM)


def abstract_batch(model, shape: Shape, frames: int, micro: int, shards: int):
    pool = (micro, shards * shape.pool)
    return Batch(
        frames_u8(pool, frames, shape.size),
        prompt_rows(pool, shape.row_length),
        int32(*pool),
        int32(*pool, model.memory_tokens),
        int32(*pool),
    )


TASK = Task(
    name="align",
    kind="tempo",
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
