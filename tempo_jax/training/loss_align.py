"""What memory tokens say, read with the LLM's own embedding: alignment without running the LLM.

Ours; the published system aligns with captions alone (facts/tempo.md §4.1). A small LLM trained from nothing
learns to read memory tokens slowly: here each slot has a word of its own to say. The relevance prior goes
on being trained beside it, since it would be forgotten otherwise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.models.layers import remat_of_parts
from tempo_jax.models.qwen3_vl import Rows
from tempo_jax.models.tempo import Tempo
from tempo_jax.prompts import IGNORE
from tempo_jax.training.loss import Loss

SHARPNESS = 8.0  # of the softmax over squared distances, in units of the embeddings' mean square
RELEVANCE_WEIGHT = 4.0  # a segment's relevance costs as much as so many of its words

STACKS = 2  # of layers, each with a rematerialisation: vision tower, compressor


class Batch(NamedTuple):
    """P segments with M memory tokens each; static shapes, padded. Integers are int32."""

    frames_PFHWC: jax.Array  # uint8, at the model's size
    rows: Rows  # compressor prompts with room for the memory tokens
    row_length_P: jax.Array
    labels_PM: jax.Array  # the word of each memory token; IGNORE costs nothing
    relevant_P: jax.Array  # 1 or 0; IGNORE costs nothing


def loss(model: Tempo, batch: Batch, *, remat: bool | str = True) -> Loss:
    """The batch's summed loss; words are counted, relevance is not.

    Per word: cross-entropy of softmax(-SHARPNESS * distance) over the vocabulary, plus the distance to the
    label's own embedding; distance: squared, as a share of the embeddings' mean square. So projected memory
    tokens become embeddings of words, in direction and in length. Per segment: binary cross-entropy of the
    relevance (facts/tempo.md §3.1).
    """
    remat_vision, remat_text = remat_of_parts(remat, STACKS)
    visual = model.compressor.see_frames(batch.frames_PFHWC, remat=remat_vision)
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
