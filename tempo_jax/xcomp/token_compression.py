"""LP-Comp: visual tokens are deleted between the LLM's layers, by tables that know no content (xcomp §2).

A row is [text before | frames x 16 visual tokens | text after | padding]. Between two layers the survivors
move together; positions are counted anew in every layer, so a layer's positions are 0, 1, 2, …, and its keys
and values are those of exactly the tokens it saw. Everything is a gather with indices from a row's own
lengths: rows of a batch may differ, shapes do not.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.models.decoder import KV, Decoder
from tempo_jax.models.kernels.attention import attention
from tempo_jax.models.layers import layer, scan_layers
from tempo_jax.xcomp.schedule import Plan


class Rows(NamedTuple):
    """What stands where in B rows, int32 [B] each."""

    prefix_B: jax.Array  # text tokens before the video
    frames_B: jax.Array  # slots of visual tokens
    suffix_B: jax.Array  # text tokens after it

    def lengths(self, plan: Plan) -> jax.Array:
        """Real tokens that each layer sees, int32 [layers, B]; also where a new token stands."""
        return jnp.stack([self.prefix_B + self.suffix_B + self.frames_B * k for k in plan.tokens[1:]])


class Room(NamedTuple):
    """The static shape of a batch: no row has more text tokens or frames."""

    text: int
    frames: int

    def length(self, tokens: int) -> int:
        """Places of a row where a frame has `tokens`."""
        return self.text + self.frames * tokens


def places(rows: Rows, room: Room, tokens: int) -> tuple[jax.Array, jax.Array]:
    """What stands at each place of rows with `tokens` a frame, int32 [B, L] twice: which of the row's text
    tokens, and which of its visual ones; -1 where the other stands, or nothing."""
    place = jnp.arange(room.length(tokens))
    prefix, video = rows.prefix_B[:, None], rows.frames_B[:, None] * tokens
    inside = place - prefix
    is_visual = (inside >= 0) & (inside < video)
    text = jnp.where(inside < 0, place, place - video)
    is_text = ~is_visual & (text < prefix + rows.suffix_B[:, None])
    return jnp.where(is_text, text, -1), jnp.where(is_visual, inside, -1)


def delete(x_BL, rows: Rows, room: Room, before: int, kept: tuple[int, ...]):
    """Rows [B, L, ...] with `before` tokens a frame to rows that keep the `kept` ones of each frame.

    Places past a row's end hold copies of others, as padding may.
    """
    after = len(kept)
    place = jnp.arange(room.length(after))
    prefix, frames = rows.prefix_B[:, None], rows.frames_B[:, None]
    inside = place - prefix
    frame, token = inside // after, jnp.asarray(kept)[inside % after]
    source = jnp.where(
        inside < 0,
        place,
        jnp.where(frame < frames, prefix + frame * before + token, place + frames * (before - after)),
    )
    source = jnp.minimum(source, x_BL.shape[1] - 1)
    return jnp.take_along_axis(x_BL, source.reshape(*source.shape, *(1,) * (x_BL.ndim - 2)), axis=1)


def compress_labels(labels_BL, rows: Rows, room: Room, plan: Plan):
    """Labels of the tokens that the last layer sees; those of visual tokens cost nothing anyhow."""
    if plan.survivors[-1] == plan.survivors[0]:
        return labels_BL
    return delete(labels_BL, rows, room, plan.tokens[0], plan.survivors[-1])


def walk(
    decoder: Decoder, x_BLD, rows: Rows, room: Room, plan: Plan, attend: Callable
) -> Iterator[tuple[int, jax.Array]]:
    """(0, what enters layer 0), (1, …), … and at last (layers, what the final norm gets).

    A layer is computed when the next pair is asked for.
    """
    for index in range(plan.layers):
        kept = plan.kept(index + 1)
        if kept is not None:
            x_BLD = delete(x_BLD, rows, room, plan.tokens[index], kept)
        yield index, x_BLD
        angles = decoder.angles(jnp.arange(x_BLD.shape[1])[None])
        x_BLD = layer(decoder.layers, index)(x_BLD, angles, attend)
    yield plan.layers, x_BLD


def prefill(decoder: Decoder, x_BLD, rows: Rows, room: Room, plan: Plan) -> tuple[jax.Array, list[KV]]:
    """Normed hidden states of the last layer's tokens, and every layer's keys and values of its own.

    x_BLD: [B, room.length(plan.tokens[0]), D].
    """
    caches: list[KV] = []

    def attend(q, k, v, scale):
        caches.append((k, v))
        return attention(q, k, v, scale=scale, causal=True)

    for _, x in walk(decoder, x_BLD, rows, room, plan, attend):
        last = x
    return decoder.norm(last), caches


def forward(
    decoder: Decoder, x_BLD, rows: Rows, room: Room, plan: Plan, *, remat: bool | str = False
) -> jax.Array:
    """`prefill` without a cache, for training: layers between two drops are scanned together."""
    for start, stop in plan.runs():
        kept = plan.kept(start + 1)
        if kept is not None:
            x_BLD = delete(x_BLD, rows, room, plan.tokens[start], kept)
        angles = decoder.angles(jnp.arange(x_BLD.shape[1])[None])

        def body(x, block, _, angles=angles):
            return block(x, angles, lambda q, k, v, scale: attention(q, k, v, scale=scale, causal=True))

        x_BLD = scan_layers(body, x_BLD, decoder.layers, start, stop, remat=remat)
    return decoder.norm(x_BLD)
