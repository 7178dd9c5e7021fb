"""LP-Comp inside Tempo's LLM: segments lose memory tokens on their way through the layers (xcomp §2).

Ours; neither system does it. A frame of XComp's has 16 tokens and a segment of Tempo's as many as it was
allotted, so a layer keeps the schedule's share of a segment's own number, rounded up: of a segment that had
tokens the last layer still sees one. Text and time tags stay. As in XComp positions are counted anew in every
layer, whose keys and values are those of exactly the tokens it saw.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.models.decoder import KV, Decoder
from tempo_jax.models.kernels.attention import attention
from tempo_jax.models.layers import get_layer
from tempo_jax.models.prompt_packing import Packed
from tempo_jax.runtime import buckets
from tempo_jax.xcomp import token_compression

# Which of a segment's tokens stay: its last ones, which have read the others, as XComp has it; or its first
# ones, as allocation has it.
KEEPS = ("suffix", "prefix")


class SegmentDropSchedule(NamedTuple):
    """Static: counts[l] of counts[0] tokens of a whole segment are what layer l sees, from 1; rooms[l - 1]
    is how long its rows are."""

    keep: str
    counts: tuple[int, ...]
    lengths: tuple[int, ...]


class TokenPositions(NamedTuple):
    """What stands in L places, int32: of memory tokens the number in their segment, from 0, and how many
    the segment has; of text a segment of 0, of padding one of -1."""

    number_L: jax.Array
    kept_L: jax.Array


def make_schedule(
    keep: str, layers: int, memory_tokens: int, *, bucket: int, segments: int, text: int
) -> SegmentDropSchedule:
    """For rows of `bucket` places that hold at most so many segments and tokens of text and time tags."""
    counts = tuple(token_compression.cosine_counts(layers, memory_tokens))
    most = min(bucket, segments * memory_tokens)
    rooms = (
        min(
            bucket,
            buckets.round_up_to(
                text + segments + -(-most * count // memory_tokens), buckets.PROMPT_ALIGNMENT
            ),
        )
        for count in counts[1:]
    )
    return SegmentDropSchedule(keep, counts, tuple(rooms))


def remaining(kept, plan: SegmentDropSchedule, number: int):
    """Tokens that layer `number`, from 1, sees of segments that entered with `kept`; int, any shape."""
    return -(-kept * plan.counts[number] // plan.counts[0])


def layer_tokens(allocation_S: np.ndarray, plan: SegmentDropSchedule) -> np.ndarray:
    """Memory tokens that each layer sees, int64 [layers]."""
    kept = np.asarray(allocation_S, np.int64)
    return np.array([remaining(kept, plan, number).sum() for number in range(1, len(plan.counts))])


def token_positions(packed: Packed, allocation_S, memory_tokens: int) -> TokenPositions:
    """Of a packed prompt."""
    index = packed.memory_index
    is_memory, real = index >= 0, jnp.arange(index.shape[0]) < packed.length
    kept = allocation_S[jnp.maximum(index, 0) // memory_tokens]
    return TokenPositions(
        jnp.where(is_memory, index % memory_tokens, 0),
        jnp.where(is_memory, kept, jnp.where(real, 0, -1)).astype(jnp.int32),
    )


def prefill(
    decoder: Decoder, x_LD, where: TokenPositions, plan: SegmentDropSchedule
) -> tuple[jax.Array, list[KV], jax.Array]:
    """One prompt: normed hidden states [1, L', D] of the last layer's tokens, every layer's keys and values,
    and how many tokens each layer saw, int32 [layers, 1]."""
    caches: list[KV] = []
    lengths = []

    def attend(q, k, v, scale):
        caches.append((k, v))
        return attention(q, k, v, scale=scale, causal=True)

    for number, room in enumerate(plan.lengths, 1):
        stays = _is_kept(where, plan, number)
        if room < x_LD.shape[0] or plan.counts[number] < plan.counts[number - 1]:
            source = jnp.nonzero(stays, size=room, fill_value=x_LD.shape[0] - 1)[0]
            real = jnp.arange(room) < jnp.sum(stays)
            x_LD, where = x_LD[source], jax.tree.map(lambda x, source=source: x[source], where)
            where = where._replace(kept_L=jnp.where(real, where.kept_L, -1))
        lengths.append(jnp.sum(stays, dtype=jnp.int32))
        angles = decoder.angles(jnp.arange(room)[None])
        x_LD = get_layer(decoder.layers, number - 1)(x_LD[None], angles, attend)[0]
    return decoder.norm(x_LD)[None], caches, jnp.stack(lengths)[:, None]


def _is_kept(where: TokenPositions, plan: SegmentDropSchedule, number: int):
    count = remaining(where.kept_L, plan, number)
    if plan.keep == "prefix":
        stays = where.number_L < count
    else:
        stays = where.number_L >= where.kept_L - count
    return jnp.where(where.kept_L > 0, stays, where.kept_L == 0)
