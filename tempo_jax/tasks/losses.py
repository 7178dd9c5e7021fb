"""Next-token cross-entropy, computed over chunks of labels to bound the memory of logits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.prompts import IGNORE

# Labels of each row whose logits exist at the same time: 0.6 GB per row with Qwen's vocabulary. Every chunk
# with labels costs a gradient of the whole embedding, all-reduced over chips.
CHUNK = 1024


class Loss(NamedTuple):
    """A sum and its denominator, so that batches can be added up exactly."""

    total: jax.Array  # float32, nats
    tokens: jax.Array  # float32, labels that count


def positions_in(conversation_BL: jax.Array) -> jax.Array:
    """Returns positions that restart from 0 with every conversation of a sequence, int32 [B, L].

    Args:
      conversation_BL: int32 [B, L], index of the conversation within its sequence.
    """
    position = jnp.broadcast_to(jnp.arange(conversation_BL.shape[1]), conversation_BL.shape)
    before = jnp.pad(conversation_BL[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    return position - jax.lax.cummax(jnp.where(conversation_BL != before, position, 0), axis=1)


def cross_entropy(logits_of, hidden_BLD, labels_BL, chunk: int = CHUNK) -> Loss:
    """Returns the summed cross-entropy over labels that are not IGNORE, `chunk` labels of a row at a time.

    Labeled positions are moved to the front and chunks without labels are skipped, so that a sequence of
    mostly visual tokens costs few logits. Logits are recomputed in the backward pass, chunk by chunk.

    Args:
      logits_of: Function from hidden states [..., D] to logits float32 [..., vocabulary].
      hidden_BLD: Hidden states.
      labels_BL: int32 labels of the same positions (already shifted), or IGNORE.
      chunk: Number of labels of each row whose logits exist at the same time.
    """
    batch, length = labels_BL.shape
    chunk = min(chunk, length)
    padding = -length % chunk
    order = jnp.argsort(labels_BL == IGNORE, axis=1, stable=True)
    labels = jnp.take_along_axis(labels_BL, order, axis=1)
    order = jnp.pad(order, ((0, 0), (0, padding))).reshape(batch, -1, chunk)
    labels = jnp.pad(labels, ((0, 0), (0, padding)), constant_values=IGNORE).reshape(batch, -1, chunk)

    @jax.checkpoint
    def token_nll(position_BC, labels_BC) -> Loss:
        logits = logits_of(jnp.take_along_axis(hidden_BLD, position_BC[..., None], axis=1))
        chosen = jnp.take_along_axis(logits, jnp.maximum(labels_BC, 0)[..., None], axis=-1)[..., 0]
        counts = labels_BC != IGNORE
        nll = jnp.where(counts, jax.nn.logsumexp(logits, axis=-1) - chosen, 0.0)
        return Loss(jnp.sum(nll), jnp.sum(counts, dtype=jnp.float32))

    zero = Loss(jnp.float32(0), jnp.float32(0))

    def add_chunk(carry: Loss, block) -> tuple[Loss, None]:
        position, labels = block
        has_labels = jnp.any(labels != IGNORE)
        chunk_loss = jax.lax.cond(has_labels, token_nll, lambda *_: zero, position, labels)
        return Loss(carry.total + chunk_loss.total, carry.tokens + chunk_loss.tokens), None

    return jax.lax.scan(add_chunk, zero, (jnp.moveaxis(order, 1, 0), jnp.moveaxis(labels, 1, 0)))[0]
