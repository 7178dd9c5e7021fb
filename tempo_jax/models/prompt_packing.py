"""Assembles the global LLM's prompt by index: text, time tags and kept memory tokens in one bucket.

The embeddings are `where(memory_index >= 0, memory[memory_index], embed(token_ids))`. Sources:
docs/reference/tempo.md#time-tags, docs/reference/tempo.md#llm-prompt-and-context.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tempo_jax.models.config import PADDING_ID


class Packed(NamedTuple):
    """A prompt in a prefill bucket."""

    token_ids: jax.Array  # int32[bucket], PADDING_ID on memory tokens and padding
    memory_index: jax.Array  # int32[bucket], row of memory flattened to [S*K, D]; -1 on text and padding
    length: jax.Array  # int32 scalar, the real length, which may exceed the bucket


def visual_length(allocation, tag_lengths) -> jax.Array:
    """Length of the visual block: kept tokens and the tags of segments that keep any. int[S] x2 -> int32."""
    return jnp.sum(allocation + jnp.where(allocation > 0, tag_lengths, 0), dtype=jnp.int32)


@functools.partial(jax.jit, static_argnames=("memory_tokens", "bucket"))
def pack(allocation, tag_ids, prefix_ids, suffix_ids, *, memory_tokens: int, bucket: int) -> Packed:
    """Packs prefix text, each segment's time tag and kept memory tokens, suffix text and padding.

    A segment without tokens is dropped with its tag. What exceeds the bucket is truncated; `length` tells.

    Args:
      allocation: int[S], kept tokens per segment, clipped to 0..memory_tokens; they are rows
        s*K .. s*K + k-1 of the flattened memory (`ata.keep` moves them there).
      tag_ids: int32[S, T] time-tag ids padded with -1; all -1 for an image.
      prefix_ids, suffix_ids: int32[P1], int32[P2] prompt ids padded with -1.
      memory_tokens: K. bucket: static length of the result.
    """
    segments = allocation.shape[0]
    memory_rows = lax.broadcasted_iota(jnp.int32, (segments, memory_tokens), 1)
    flat_rows = memory_rows + memory_tokens * lax.broadcasted_iota(jnp.int32, memory_rows.shape, 0)
    # A text token is encoded as its id, memory row r as -(r + 1): one array, and thus one scatter.
    blocks = jnp.concatenate([tag_ids.astype(jnp.int32), -1 - flat_rows], axis=1)
    is_kept = jnp.concatenate(
        [(tag_ids >= 0) & (allocation > 0)[:, None], memory_rows < allocation[:, None]], axis=1
    )
    codes = jnp.concatenate([prefix_ids, blocks.reshape(-1), suffix_ids]).astype(jnp.int32)
    is_kept = jnp.concatenate([prefix_ids >= 0, is_kept.reshape(-1), suffix_ids >= 0])

    ends = jnp.cumsum(is_kept, dtype=jnp.int32)
    # Entries that are dropped or exceed the bucket get distinct indices beyond it, which "drop" discards; a
    # negative index would wrap around.
    beyond_bucket = bucket + lax.iota(jnp.int32, codes.shape[0])
    target = jnp.where(is_kept & (ends <= bucket), ends - 1, beyond_bucket)
    packed = jnp.full(bucket, PADDING_ID, jnp.int32).at[target].set(codes, mode="drop", unique_indices=True)
    return Packed(
        token_ids=jnp.where(packed >= 0, packed, PADDING_ID),
        memory_index=jnp.where(packed < 0, -1 - packed, -1),
        length=jnp.sum(is_kept, dtype=jnp.int32),
    )
