"""Next-token cross-entropy of the LLM alone, over conversations without pictures."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.models.decoder import Decoder
from tempo_jax.prompts import IGNORE
from tempo_jax.training.loss import Loss, cross_entropy, positions_in

STACKS = 1  # of layers


class Batch(NamedTuple):
    """B rows of conversations, one after the other; static shapes, padded; int32."""

    token_ids_BL: jax.Array
    labels_BL: jax.Array  # of the same position, not shifted; IGNORE costs nothing
    conversation_BL: jax.Array  # number within the row, from 1; 0 on padding


def loss(model: Decoder, batch: Batch, *, remat: bool | str = True) -> Loss:
    """The batch's summed loss."""
    x = model.embed(batch.token_ids_BL)
    conversation = batch.conversation_BL
    hidden = model(x, positions_in(conversation), document_BL=conversation, remat=remat)
    labels = jnp.pad(batch.labels_BL[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORE)
    return cross_entropy(model.logits, hidden, labels)
