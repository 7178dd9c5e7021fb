"""Tempo: compressor, projector and global LLM, whose prompt is assembled by index.

`pack` lays text, time tags and kept memory tokens out in one bucket; the LLM's embeddings are
`where(memory_index >= 0, memory[memory_index], embed(token_ids))`. Sources:
docs/reference/tempo.md#data-flow, docs/reference/tempo.md#time-tags,
docs/reference/tempo.md#llm-prompt-and-context.
"""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from tempo_jax.models import layers
from tempo_jax.models.compressor import Compressor
from tempo_jax.models.config import PADDING_ID, DecoderConfig, Qwen3VLConfig, TempoConfig
from tempo_jax.models.decoder import Decoder
from tempo_jax.models.layers import Linear, exact_gelu
from tempo_jax.models.qwen3_vl import Qwen3VL


def projector_layers(kind: str) -> list[int]:
    """Indices of the affine maps in PyTorch's Sequential: linear -> [0], mlp2x_gelu -> [0, 2], ..."""
    if kind == "identity":
        return []
    if kind == "linear":
        return [0]
    match = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if not match or int(match[1]) < 1:
        raise ValueError(f"unknown projector {kind!r}: use linear, identity or mlpNx_gelu")
    return [2 * i for i in range(int(match[1]))]


class Projector(nnx.Module):
    """From the compressor's width to the LLM's: `linear`, `mlpNx_gelu` (exact GELU between) or `identity`."""

    def __init__(self, kind: str, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.layers = nnx.Dict(
            {
                str(i): Linear(in_features if i == 0 else out_features, out_features, bias=True, rngs=rngs)
                for i in projector_layers(kind)
            }
        )

    @jax.named_scope("projector")
    def __call__(self, x):
        for index, linear in sorted(self.layers.items(), key=lambda item: int(item[0])):
            x = linear(x if index == "0" else exact_gelu(x))
        return x


class Tempo(nnx.Module):
    """All networks of Tempo: parameters and pure functions, which the engine and the trainer call."""

    def __init__(self, config: TempoConfig, *, rngs: nnx.Rngs, stacked: bool = True):
        self.config = config
        self.compressor = Compressor(config.compressor, config.memory_tokens, rngs=rngs, stacked=stacked)
        self.projector = Projector(
            config.projector, config.compressor.text.hidden_size, config.llm.hidden_size, rngs=rngs
        )
        self.llm = Decoder(config.llm, rngs=rngs, stacked=stacked)

    def assemble(self, token_ids_BL, memory_index_BL, memory_MD, num_shards: int = 1) -> jax.Array:
        """The LLM's input embeddings [B, L, D] by index.

        memory_MD: a buffer of memory tokens (compressor width, before the projector) of all sequences;
        memory_index_BL: its rows, -1 for text. num_shards: as in layers.gather_rows.
        """
        text = self.llm.embed(token_ids_BL)
        rows = layers.gather_rows(self.projector(memory_MD).astype(text.dtype), memory_index_BL, num_shards)
        return jnp.where((memory_index_BL >= 0)[..., None], rows, text)


MODELS = {TempoConfig: Tempo, Qwen3VLConfig: Qwen3VL, DecoderConfig: Decoder}


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
