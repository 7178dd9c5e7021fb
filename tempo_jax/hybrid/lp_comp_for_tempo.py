"""LP-Comp inside Tempo's LLM: memory tokens of a segment are dropped between layers.

This combination is new; neither paper has it. A frame of XComp's has 16 tokens and a segment of Tempo's as
many as it was allocated, so a layer keeps the schedule's fraction of each segment's own number, rounded up:
of a segment with tokens the last layer still processes one. Text and time tags are kept. As in XComp,
positions are assigned anew in every layer, whose keys and values are those of exactly the tokens it processes
(docs/reference/xcomp.md#schedule).

Layers count from 0. For example, a segment a of 4 tokens and a segment b of 2, with time tags T, of which a
layer keeps half ("suffix"), in a bucket of 10 positions of which 2 are padding (_):

    before         T a0 a1 a2 a3 T b0 b1 _ _      after          T a2 a3 T b1 _ ...
    token_L        0  0  1  2  3 0  0  1 0 0      token_L        0  2  3 0  1 0
    num_tokens_L   0  4  4  4  4 0  2  2 -1 -1    num_tokens_L   0  4  4 0  2 -1
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.models.decoder import KV, Decoder
from tempo_jax.models.kernels.attention import attention
from tempo_jax.models.layers import get_layer
from tempo_jax.models.tempo import Packed
from tempo_jax.runtime import buckets
from tempo_jax.xcomp import token_compression

# Which of a segment's tokens are kept: its last ones, which have attended to the others, as in XComp; or its
# first ones, as allocation keeps them.
KEEPS = ("suffix", "prefix")


class SegmentDropSchedule(NamedTuple):
    """How many memory tokens of a segment each layer processes; static.

    Attributes:
      keep: Which ones, a name in KEEPS.
      memory_tokens: Tokens of a whole segment.
      layer_tokens: For each layer, how many of a whole segment's tokens it processes.
      lengths: For each layer, the static length of its sequence.
    """

    keep: str
    memory_tokens: int
    layer_tokens: tuple[int, ...]
    lengths: tuple[int, ...]

    def drops_before(self, layer: int) -> bool:
        before = self.layer_tokens[layer - 1] if layer else self.memory_tokens
        return self.layer_tokens[layer] < before


class TokenPositions(NamedTuple):
    """What is at each of L positions, int32; the module's docstring has an example."""

    token_L: jax.Array  # index of a memory token among its segment's, 0 for text and padding
    num_tokens_L: jax.Array  # allocated tokens of its segment; 0 for text, -1 for padding


def make_schedule(
    keep: str, layers: int, memory_tokens: int, *, bucket: int, segments: int, text_tokens: int
) -> SegmentDropSchedule:
    """The schedule for prompts of at most `bucket` positions and `segments` segments."""
    counts = token_compression.cosine_counts(layers, memory_tokens)[1:]
    max_visual_tokens = min(bucket, segments * memory_tokens)

    def length(count: int) -> int:
        remaining_tokens = segments + -(-max_visual_tokens * count // memory_tokens)
        return min(bucket, buckets.round_up_to(text_tokens + remaining_tokens, buckets.PROMPT_ALIGNMENT))

    return SegmentDropSchedule(keep, memory_tokens, tuple(counts), tuple(map(length, counts)))


def remaining(num_tokens, schedule: SegmentDropSchedule, layer: int):
    """Tokens that `layer` processes of segments with `num_tokens` allocated ones; int, any shape."""
    return -(-num_tokens * schedule.layer_tokens[layer] // schedule.memory_tokens)


def layer_tokens(allocation_S: np.ndarray, schedule: SegmentDropSchedule) -> np.ndarray:
    """Memory tokens of all segments that each layer processes, int64 [layers]."""
    allocation_S = np.asarray(allocation_S, np.int64)
    return np.array([remaining(allocation_S, schedule, i).sum() for i in range(len(schedule.lengths))])


def token_positions(packed: Packed, allocation_S, memory_tokens: int) -> TokenPositions:
    """The positions of a packed prompt."""
    index = packed.memory_index
    is_memory, real = index >= 0, jnp.arange(index.shape[0]) < packed.length
    num_tokens = allocation_S[jnp.maximum(index, 0) // memory_tokens]
    return TokenPositions(
        jnp.where(is_memory, index % memory_tokens, 0),
        jnp.where(is_memory, num_tokens, jnp.where(real, 0, -1)).astype(jnp.int32),
    )


@jax.named_scope("lp_comp")
def prefill(
    decoder: Decoder, x_LD, positions: TokenPositions, schedule: SegmentDropSchedule
) -> tuple[jax.Array, list[KV], jax.Array]:
    """Prefills one prompt.

    Returns:
      Hidden states [1, L', D] of the last layer's tokens after the final norm, every layer's keys and values,
      and the number of tokens that each layer processed, int32 [layers, 1].
    """
    caches: list[KV] = []
    lengths = []

    def attend(q, k, v, scale):
        caches.append((k, v))
        return attention(q, k, v, scale=scale, causal=True, rules=decoder.rules)

    for index, length in enumerate(schedule.lengths):
        kept = _is_kept(positions, schedule, index)
        if length < x_LD.shape[0] or schedule.drops_before(index):
            source = jnp.nonzero(kept, size=length, fill_value=x_LD.shape[0] - 1)[0]
            real = jnp.arange(length) < jnp.sum(kept)
            x_LD, positions = x_LD[source], jax.tree.map(lambda x, source=source: x[source], positions)
            positions = positions._replace(num_tokens_L=jnp.where(real, positions.num_tokens_L, -1))
        lengths.append(jnp.sum(kept, dtype=jnp.int32))
        angles = decoder.angles(jnp.arange(length)[None])
        x_LD = get_layer(decoder.layers, index)(x_LD[None], angles, attend)[0]
    return decoder.norm(x_LD)[None], caches, jnp.stack(lengths)[:, None]


def _is_kept(positions: TokenPositions, schedule: SegmentDropSchedule, layer: int):
    count = remaining(positions.num_tokens_L, schedule, layer)
    if schedule.keep == "prefix":
        kept = positions.token_L < count
    else:
        kept = positions.token_L >= positions.num_tokens_L - count
    return jnp.where(positions.num_tokens_L > 0, kept, positions.num_tokens_L == 0)
