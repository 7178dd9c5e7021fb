"""Next-token cross-entropy of the small VLM alone, over conversations about single segments."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.models.layers import remat_of_parts
from tempo_jax.models.qwen3_vl import Qwen3VL, Rows
from tempo_jax.prompts import IGNORE
from tempo_jax.training.loss import Loss, cross_entropy

STACKS = 2  # of layers, each with a rematerialisation: vision tower, LLM


class Batch(NamedTuple):
    """P conversations, each about a segment of its own; static shapes, padded. Integers are int32."""

    frames_PFHWC: jax.Array  # uint8, at the model's size
    rows: Rows
    labels_PL: jax.Array  # of the same position, not shifted; IGNORE costs nothing


def loss(model: Qwen3VL, batch: Batch, *, remat: bool | str = True) -> Loss:
    """The batch's summed loss."""
    remat_vision, remat_text = remat_of_parts(remat, STACKS)
    visual = model.see_frames(batch.frames_PFHWC, remat=remat_vision)
    hidden = model(visual, batch.rows, remat=remat_text)
    labels = jnp.pad(batch.labels_PL[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORE)
    return cross_entropy(model.text.logits, hidden, labels)
