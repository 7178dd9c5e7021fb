"""Next-token cross-entropy over labels, a part of a row at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.prompts import IGNORE

# Labels of each row whose logits exist at once: 0.6 GB a row of Qwen's vocabulary. Every chunk of a batch
# that has labels costs a gradient of the whole embedding, summed over chips.
CHUNK = 1024


class Loss(NamedTuple):
    """A sum and its denominator, so that batches can be added up exactly."""

    total: jax.Array  # float32, nats
    tokens: jax.Array  # float32, labels that count


def positions_in(conversation_BL: jax.Array) -> jax.Array:
    """Positions that start from 0 with every conversation of a row, int32 [B, L]."""
    place = jnp.broadcast_to(jnp.arange(conversation_BL.shape[1]), conversation_BL.shape)
    before = jnp.pad(conversation_BL[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    return place - jax.lax.cummax(jnp.where(conversation_BL != before, place, 0), axis=1)


def cross_entropy(logits_of, hidden_BLD, labels_BL, chunk: int = CHUNK) -> Loss:
    """Sum over labels that are not IGNORE, `chunk` of a row's labels at a time.

    Labelled positions are moved to the front first, and chunks without any are skipped: of a row that
    is mostly visual tokens hardly any logits are made. Those of a chunk are recomputed in the backward
    pass, so no more of them ever exist.
    logits_of: hidden [..., D] -> logits float32 [..., vocabulary].
    """
    batch, length = labels_BL.shape
    chunk = min(chunk, length)
    padding = -length % chunk
    order = jnp.argsort(labels_BL == IGNORE, axis=1, stable=True)
    labels = jnp.take_along_axis(labels_BL, order, axis=1)
    order = jnp.pad(order, ((0, 0), (0, padding))).reshape(batch, -1, chunk)
    labels = jnp.pad(labels, ((0, 0), (0, padding)), constant_values=IGNORE).reshape(batch, -1, chunk)

    @jax.checkpoint
    def nats(place_BC, labels_BC) -> Loss:
        logits = logits_of(jnp.take_along_axis(hidden_BLD, place_BC[..., None], axis=1))
        chosen = jnp.take_along_axis(logits, jnp.maximum(labels_BC, 0)[..., None], axis=-1)[..., 0]
        counts = labels_BC != IGNORE
        cost = jnp.where(counts, jax.nn.logsumexp(logits, axis=-1) - chosen, 0.0)
        return Loss(jnp.sum(cost), jnp.sum(counts, dtype=jnp.float32))

    zero = Loss(jnp.float32(0), jnp.float32(0))

    def part(carry: Loss, block) -> tuple[Loss, None]:
        place, labels = block
        some = jnp.any(labels != IGNORE)
        found = jax.lax.cond(some, nats, lambda *_: zero, place, labels)
        return Loss(carry.total + found.total, carry.tokens + found.tokens), None

    return jax.lax.scan(part, zero, (jnp.moveaxis(order, 1, 0), jnp.moveaxis(labels, 1, 0)))[0]
