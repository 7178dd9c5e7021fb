"""What memory tokens say, read with the LLM's own embedding: alignment without running the LLM.

Ours; the published system aligns with captions alone (facts/tempo.md §4.1). A small LLM trained from nothing
learns to read memory tokens slowly: here each slot has a word of its own to say, and the LLM is not even run.
"""

import jax
import jax.numpy as jnp

from tempo_jax.models.tempo import Tempo
from tempo_jax.prompts import IGNORE
from tempo_jax.training.loss import Batch, Loss

SHARPNESS = 8.0  # of the softmax over squared distances, in units of the embeddings' mean square


def loss(model: Tempo, batch: Batch, *, remat: bool = True) -> Loss:
    """The batch's summed loss over labels that stand at memory tokens; other labels are not looked at.

    Per slot: cross-entropy of softmax(-SHARPNESS * distance) over the vocabulary, plus the distance to the
    label's own embedding; distance: squared, as a share of the embeddings' mean square. So projected memory
    tokens become embeddings of words, in direction and in length.
    """
    visual = model.compressor.see_frames(batch.frames_PFHWC, remat=remat)
    memory, _ = model.compressor(visual, batch.rows, batch.row_length_P, remat=remat)
    said = model.projector(memory.reshape(-1, memory.shape[-1])).astype(jnp.float32)
    table = model.llm.embed.embedding[...].astype(jnp.float32)
    size = jnp.sum(table**2, axis=-1)
    distance = (jnp.sum(said**2, axis=-1, keepdims=True) - 2 * said @ table.T + size) / jnp.mean(size)
    labels = _by_slot(batch, len(said))
    known = labels != IGNORE
    own = jnp.take_along_axis(distance, jnp.maximum(labels, 0)[:, None], axis=-1)[:, 0]
    cost = jax.nn.logsumexp(-SHARPNESS * distance, axis=-1) + SHARPNESS * own + own
    return Loss(jnp.sum(jnp.where(known, cost, 0.0)), jnp.sum(known, dtype=jnp.float32))


def _by_slot(batch: Batch, slots: int) -> jax.Array:
    """Labels in the order of the pool of memory tokens; IGNORE for what no conversation points at."""
    place = jnp.where(batch.memory_index_BL >= 0, batch.memory_index_BL, slots)
    return jnp.full(slots, IGNORE).at[place.reshape(-1)].set(batch.labels_BL.reshape(-1), mode="drop")
