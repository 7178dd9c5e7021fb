"""How much a question looks at each clip, in one layer, over a window with positions of its own (xcomp §3.3).

The hidden states come from the whole chunk; only this attention is local. It is computed for the question's
rows alone. Logits are scaled before they are formed and softmax and means are float32: the released code
forms them in float16, where they can overflow (§6.2, 9).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.models import rope
from tempo_jax.models.decoder import Decoder, DecoderLayer
from tempo_jax.models.kernels.attention import attention
from tempo_jax.models.layers import layer
from tempo_jax.xcomp.chunks import Windows
from tempo_jax.xcomp.layout import GRAIN
from tempo_jax.xcomp.schedule import Plan
from tempo_jax.xcomp.token_compression import Room, Rows, walk

HIDDEN = -1e30


class Question(NamedTuple):
    """Places in the text after the video, counted from its start; int32, may be traced."""

    start: jax.Array  # the first row that asks
    end: jax.Array  # one past the last: where the assistant's header starts
    text_end: jax.Array  # one past the header


def layer_scores(
    decoder: Decoder,
    x_BLD,
    rows: Rows,
    room: Room,
    plan: Plan,
    question: Question,
    *,
    prefix: int,
    layers: range,
    windows: Windows,
    causal: bool,
) -> jax.Array:
    """Scores of one chunk in some layers, float32 [layers, clips]; those of §3.3 with `windows` in mind.

    Layers past the last one are not computed. A clip that `windows.valid` leaves out has a score that
    counts for nothing. prefix: text tokens before the video.
    """

    def attend(q, k, v, scale):
        return attention(q, k, v, scale=scale, causal=True)

    found = []
    for index, x in walk(decoder, x_BLD, rows, room, plan, attend):
        if index in layers:
            block = layer(decoder.layers, index)
            found.append(
                clip_scores(
                    block, decoder, x[0], question, prefix=prefix, frames=room.frames,
                    tokens=plan.tokens[index + 1], windows=windows, causal=causal,
                )
            )  # fmt: skip
        if index == layers[-1]:
            return jnp.stack(found)
    raise ValueError(f"layers {layers} of {plan.layers}")


def clip_scores(
    block: DecoderLayer,
    decoder: Decoder,
    x_LD,
    question: Question,
    *,
    prefix: int,
    frames: int,
    tokens: int,
    windows: Windows,
    causal: bool,
) -> jax.Array:
    """Mean attention of the question's rows to every clip of a chunk, float32 [clips].

    x_LD: what enters the layer: prefix, frames x tokens visual tokens, text. causal: a row sees no later
    text; False is the released form, where it sees all up to the assistant's header ("global": and that).
    """
    clips, per_clip = frames // GRAIN, GRAIN * tokens
    size = windows.size or clips
    visual = prefix + frames * tokens
    q_TNH, k_LKH = _project(block.attention, block.attention_norm(x_LD[None]), visual)
    text = q_TNH.shape[0]
    length = prefix + size * per_clip + text
    angles = decoder.angles(jnp.arange(length)[None])
    q_TNH = rope.rotate(q_TNH[None].astype(jnp.float32), angles[:, -text:])[0] / block.attention.head_dim**0.5
    row = jnp.arange(text)
    asks = (row >= question.start) & (row < question.end)
    key = jnp.arange(length) - (length - text)  # place in the text, negative before it
    last = question.end if windows.size else question.text_end
    seen = (key < last) & ((key <= row[:, None]) if causal else True)
    bias = jnp.where(seen, 0.0, HIDDEN)  # [T or 1, S]

    def window(start):
        own = jax.lax.dynamic_slice_in_dim(k_LKH, prefix + start * per_clip, size * per_clip)
        keys = jnp.concatenate([k_LKH[:prefix], own, k_LKH[visual:]])
        keys = rope.rotate(keys[None].astype(jnp.float32), angles)[0]
        grouped = q_TNH.reshape(text, keys.shape[1], -1, q_TNH.shape[-1])
        logits = jnp.einsum("tkgh,skh->kgts", grouped, keys, precision="highest")
        shares = jax.nn.softmax(logits + bias, axis=-1).mean(axis=(0, 1))
        rows = jnp.sum(shares * asks[:, None], axis=0) / jnp.maximum(jnp.sum(asks), 1)
        return rows[prefix : prefix + size * per_clip].reshape(size, per_clip).mean(axis=-1)

    starts = jnp.asarray(windows.starts(clips))
    found_WC = jax.lax.map(window, starts)
    total = jnp.zeros(clips).at[starts[:, None] + jnp.arange(size)].add(found_WC)
    return total / jnp.asarray(windows.coverage(clips)).clip(1)


def _project(attention, x_1LD, visual: int):
    """Queries of the text after place `visual` and keys of everything, not rotated: [T, N, H], [L, K, H]."""
    q = attention.q(x_1LD[:, visual:]).reshape(1, x_1LD.shape[1] - visual, -1, attention.head_dim)
    k = attention.k(x_1LD).reshape(1, x_1LD.shape[1], -1, attention.head_dim)
    if attention.q_norm is not None:
        q, k = attention.q_norm(q), attention.k_norm(k)
    return q[0], k[0]
