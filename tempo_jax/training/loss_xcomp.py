"""Supervised compression tuning: next-token cross-entropy with LP-Comp on (facts/xcomp.md §2.6, §4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.models.layers import remat_of_parts
from tempo_jax.models.resize import resize_direct
from tempo_jax.models.xcomp import XComp
from tempo_jax.prompts import IGNORE
from tempo_jax.training.loss import Loss, cross_entropy
from tempo_jax.xcomp import token_compression
from tempo_jax.xcomp.token_compression import plan

STACKS = 2  # of layers, each with a rematerialisation: vision tower, LLM


class Batch(NamedTuple):
    """B conversations, each about one video, over a pool of P clips, or about an image; padded; int32.

    Padding clips have any content and no memory_index that points at them.
    """

    frames_PFHWC: jax.Array  # uint8, of any size
    images_BHWC: jax.Array  # uint8, of the rows that have one frame
    memory_index_BL: jax.Array  # the video's visual tokens, rows of the pool's P*F*16; -1 past its end
    text_BS: jax.Array  # ids before the video, then those after it
    labels_BS: jax.Array  # of the same token, not shifted; IGNORE costs nothing
    prefix_B: jax.Array  # text tokens before the video
    frames_B: jax.Array
    suffix_B: jax.Array  # text tokens after it


def loss(model: XComp, batch: Batch, *, remat: bool | str = True, shards: int = 1) -> Loss:
    """The batch's summed loss over labels that are not IGNORE.

    shards: parts of the batch whose rows have clips of their own part only (embeddings.take).
    Labels are deleted with their tokens; the token before a label in what is left predicts it: the first
    text token after the video is predicted from the last visual token.
    """
    size = model.config.vision.image_size
    remat_vision, remat_llm = remat_of_parts(remat, STACKS)
    pool = model.see(_at_size(batch.frames_PFHWC, size), remat=remat_vision)
    images = model.see(_at_size(batch.images_BHWC[:, None], size), remat=remat_vision)
    pool = pool.reshape(-1, pool.shape[-1])
    return loss_of_visual(model, pool, images, batch, remat=remat_llm, shards=shards)


def loss_of_visual(
    model: XComp, pool_MD, images_BVD, batch: Batch, *, remat: bool | str = True, shards: int = 1
) -> Loss:
    """The same from the visual tokens of the pool and of each row's image; frames are not looked at."""
    config = model.config
    rows = token_compression.Rows(batch.prefix_B, batch.frames_B, batch.suffix_B)
    room = token_compression.Room(
        batch.text_BS.shape[1], batch.memory_index_BL.shape[1] // config.frame_tokens
    )
    made = plan(config.compression, config.llm.num_layers, config.frame_tokens)
    text, visual = token_compression.places(rows, room, config.frame_tokens)
    index = jnp.take_along_axis(batch.memory_index_BL, jnp.maximum(visual, 0), axis=1)
    ids = jnp.take_along_axis(batch.text_BS, jnp.maximum(text, 0), axis=1)
    x = model.assemble(ids, jnp.where(visual >= 0, index, -1), pool_MD, shards)
    own = jnp.clip(visual, 0, config.frame_tokens - 1)[..., None]
    image = (visual >= 0) & (batch.frames_B == 1)[:, None]
    x = jnp.where(image[..., None], jnp.take_along_axis(images_BVD.astype(x.dtype), own, axis=1), x)
    hidden = token_compression.forward(model.llm, x, rows, room, made, remat=remat)
    labels = jnp.take_along_axis(batch.labels_BS, jnp.maximum(text, 0), axis=1)
    labels = token_compression.compress_labels(jnp.where(text >= 0, labels, IGNORE), rows, room, made)
    shifted = jnp.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORE)
    return cross_entropy(model.llm.logits, hidden, shifted)


def _at_size(frames_PFHWC, size: int):
    if frames_PFHWC.shape[2:4] == (size, size):
        return frames_PFHWC
    return jax.lax.map(lambda clip: resize_direct(clip, (size, size)), frames_PFHWC)
