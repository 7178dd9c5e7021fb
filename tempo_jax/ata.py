"""Adaptive Token Allocation: how many memory tokens each segment keeps, and which.

Sources: docs/reference/tempo.md#allocation, docs/reference/tempo.md#keeping-strategies, and
docs/reference/differences-from-reference.md#tempo for budgets smaller than the number of segments. Everything
runs on the device with static shapes: other scores, budgets, minimums or maximums compile nothing new.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tempo_jax.errors import TempoError

KEEP_STRATEGIES = ("head", "tail", "random", "tome")
PRUNE_MODES = ("topk", "lastk", "random")

MIN_SPREAD = 1e-8  # scores with a smaller range count as equal
INT32_MAX = 2**31 - 1


# --- allocation ----------------------------------------------------------------------------------


def allocate(relevance, valid, budget, *, min_tokens: int = 4, max_tokens: int = 128) -> jax.Array:
    """Allocates a global budget of tokens to segments by relevance (docs/reference/tempo.md#allocation).

    Args:
      relevance: float[S], one score per segment.
      valid: bool[S], False where a segment is only padding.
      budget: int scalar, may be traced; time tags do not count.
      min_tokens: minimum per segment, lowered if it does not fit the budget; max_tokens takes precedence.
      max_tokens: maximum per segment, at least 1.

    Returns:
      int32[S], 0 for padding. Its sum never exceeds the budget: with fewer tokens than valid
      segments the most relevant ones (ties: the earlier) get one token each and the others none.
      Scores that are NaN or infinite leave every segment at its minimum.

    Raises:
      TempoError: min_tokens, max_tokens or a budget on the host is invalid.
    """
    relevance, valid = jnp.asarray(relevance), jnp.asarray(valid, bool)
    if min_tokens < 0:
        raise TempoError(f"min_tokens is {min_tokens}; give 0 or more.")
    if not 1 <= max_tokens <= INT32_MAX // max(relevance.shape[0], 1):
        raise TempoError(f"max_tokens is {max_tokens}; give 1 up to the number of memory tokens.")
    return _allocate(relevance, valid, _checked_budget(budget), min(min_tokens, max_tokens), max_tokens)


def _checked_budget(budget):
    """Validates a budget on the host and limits it to int32; values on the device would need a sync."""
    if isinstance(budget, jax.Array):
        return jnp.maximum(budget, 0)
    if budget < 0:
        raise TempoError(f"The token budget is {budget}; give 0 or more.")
    return min(int(budget), INT32_MAX)


@jax.jit
def _allocate(relevance, valid, budget, floor, cap):
    """`allocate` after validation; every argument traced, floor <= cap. -> int32[S]."""
    budget, floor, cap = (jnp.asarray(x, jnp.int32) for x in (budget, floor, cap))
    count = jnp.sum(valid, dtype=jnp.int32)
    share = budget // jnp.maximum(count, 1)
    floor = jnp.minimum(floor, jnp.maximum(share, 1))  # in this form nothing overflows
    z, flat = _normalized(relevance.astype(jnp.float32), valid)

    ideal = floor + _floor_int(z * (cap - floor).astype(jnp.float32))
    starved = budget < count
    extra = jnp.maximum(budget - count * floor, 0)
    weight = _divide(z, jnp.maximum(_exact_sum(z), 1.0))  # at least 1: the top segment has z = 1
    earned = _floor_int(weight * extra.astype(jnp.float32))
    # One ranking decides which segments get the tokens lost in rounding, and which get any when starved.
    rank = _rank(jnp.where(starved, relevance.astype(jnp.float32), weight), valid)
    left_over = extra - jnp.sum(earned, dtype=jnp.int32)
    # Negative only with millions of tokens, where `extra` itself is rounded to float32.
    scaled = floor + earned + jnp.sign(left_over) * (rank < jnp.abs(left_over))

    fits = jnp.sum(jnp.where(valid, ideal, 0), dtype=jnp.int32) <= budget
    tokens = jnp.clip(jnp.where(fits, ideal, scaled), floor, cap)
    tokens = jnp.where(flat, jnp.minimum(cap, share), tokens)
    tokens = jnp.where(starved, rank < budget, tokens)
    return jnp.where(valid, tokens, 0).astype(jnp.int32)


def _normalized(relevance, valid):
    """Min-max normalization over the valid segments: z float32[S] in [0, 1], flat bool scalar.

    Padding has z = 0, and so has everything when a score is NaN or infinite (or the range
    overflows float32), which leaves all segments at their minimum, as in the reference implementation.
    """
    low = jnp.min(jnp.where(valid, relevance, jnp.inf), initial=jnp.inf)
    high = jnp.max(jnp.where(valid, relevance, -jnp.inf), initial=-jnp.inf)
    spread = high - low
    flat = spread < MIN_SPREAD
    usable = jnp.isfinite(spread) & ~flat
    z = _divide(relevance - low, jnp.where(usable, spread, 1.0))
    return jnp.where(valid & usable, z, 0.0), flat


def _divide(numerator, denominator):
    """The correctly rounded quotient of 0 <= numerator <= denominator, float32[S] by a scalar.

    XLA replaces a division by a broadcast scalar by a multiplication with its reciprocal, and TPUs have no
    exact division; the last bit decides floor(z * 124) whenever that is a whole number. So this is
    long division of the 24-bit significands. Quotients below 2^-103 count as zero.
    """
    top, bottom = (lax.bitcast_convert_type(x, jnp.int32) for x in (numerator, denominator))
    exponent = (top >> 23) - (bottom >> 23)
    top, bottom = ((x & 0x7FFFFF) | 0x800000 for x in (top, bottom))
    small = (top < bottom).astype(jnp.int32)  # bring the significands' quotient into [1, 2)
    exponent = exponent - small

    def next_bit(_, state):
        quotient, rest = state
        bit = (rest >= bottom).astype(jnp.int32)
        return 2 * quotient + bit, 2 * (rest - bit * bottom)

    quotient, rest = lax.fori_loop(0, 24, next_bit, (jnp.zeros_like(top), top << small))
    quotient = quotient + (rest >= bottom)  # to nearest; a 24-bit quotient is never half way
    scale = lax.bitcast_convert_type(jnp.maximum(exponent - 23 + 127, 0) << 23, jnp.float32)
    return jnp.where(numerator > 0, quotient.astype(jnp.float32) * scale, 0.0)


def _exact_sum(z):
    """Sum of float32[S] values in [0, 1], rounded once.

    Each value is split into three 12-bit limbs, which are summed as integers, so that the result depends
    neither on the order of the segments nor on the number of padded zeros, on any backend; a
    float32 sum would move single tokens between segments. What is below 2^-36 per segment is dropped.
    """
    limbs, rest = [], z
    for _ in range(3):
        rest = rest * 4096.0  # a power of two: this product and the difference below are exact
        limb = jnp.floor(rest)
        limbs.append(jnp.sum(limb.astype(jnp.int32)))
        rest = rest - limb
    high, middle, low = limbs
    middle = middle + (low >> 12)
    high = high + (middle >> 12)
    tail = ((middle & 4095) << 12) | (low & 4095)  # 24 bits: exact in float32, as high is below 2^24
    return high.astype(jnp.float32) * 2.0**-12 + tail.astype(jnp.float32) * 2.0**-36


def _floor_int(x):
    return jnp.floor(x).astype(jnp.int32)


def _rank(key, valid, *, descending=True):
    """Rank of each segment when sorted by key; stable, NaN lowest, padding last. -> int32[S]."""
    key = jnp.where(jnp.isnan(key), -jnp.inf, key)
    index = lax.iota(jnp.int32, key.shape[0])
    *_, order = lax.sort((~valid, -key if descending else key, index), num_keys=2, is_stable=True)
    return jnp.zeros_like(index).at[order].set(index, unique_indices=True)


# --- keeping -------------------------------------------------------------------------------------


def keep(memory, allocation, strategy: str = "head", key=None) -> tuple[jax.Array, jax.Array]:
    """Selects the memory tokens that each segment keeps, and moves them to its front in order.

    See docs/reference/tempo.md#keeping-strategies.

    Args:
      memory: float[S, K, D].
      allocation: int[S], clipped to 0..K.
      strategy: "head" keeps the first k (as the paper), "tail" the last k, "random" k at random in
        their order, "tome" merges similar tokens until k remain.
      key: jax.random key, for "random" only.

    Returns:
      tokens [S, K, D] in memory's dtype, zero where not kept; mask bool[S, K].

    Raises:
      TempoError: The strategy is unknown, or "random" has no key.
    """
    if strategy not in KEEP_STRATEGIES:
        raise TempoError(f"Unknown strategy {strategy!r}; choose one of {', '.join(KEEP_STRATEGIES)}.")
    return _keep(jnp.asarray(memory), jnp.asarray(allocation), _checked_key(strategy, key), strategy=strategy)


def _checked_key(choice, key):
    if choice != "random":
        return None
    if key is None:
        raise TempoError('"random" needs a key; pass key=jax.random.key(seed).')
    return key


@functools.partial(jax.jit, static_argnames="strategy")
def _keep(memory, allocation, key, *, strategy):
    rows = memory.shape[1]
    position = lax.iota(jnp.int32, rows)
    allocation = jnp.clip(allocation.astype(jnp.int32), 0, rows)
    mask = position < allocation[:, None]
    if strategy == "tome":
        kept = jax.vmap(_merge)(memory.astype(jnp.float32), allocation).astype(memory.dtype)
    elif strategy == "tail":
        source = rows - allocation[:, None] + position
        kept = jnp.take_along_axis(memory, jnp.minimum(source, rows - 1)[..., None], axis=1)
    elif strategy == "random":
        draw = jax.random.uniform(key, memory.shape[:2])
        chosen = jnp.argsort(jnp.argsort(draw, axis=1), axis=1) < allocation[:, None]
        source = jnp.argsort(~chosen, axis=1, stable=True)
        kept = jnp.take_along_axis(memory, source[..., None], axis=1)
    else:
        kept = memory
    return jnp.where(mask[..., None], kept, 0), mask


def _merge(rows, target):
    """Token merging of one segment down to `target` rows. float32[K, D] -> [K, D].

    A round at most halves the rows, so floor(log2 K) rounds reach any target from 1 to K; a
    segment that has reached its target is left unchanged by the remaining rounds.
    Differences from the reference implementation: target 0 keeps nothing (there an error), a zero row is
    similar to nothing (there NaN), and bfloat16 memory is merged in float32 and rounded once.
    """
    size = rows.shape[0]
    if size == 1:
        return rows

    def one_round(_, state):
        return _merge_round(*state, jnp.maximum(target, 1))

    merged, _ = lax.fori_loop(0, size.bit_length() - 1, one_round, (rows, jnp.int32(size)))
    return merged


def _merge_round(rows, count, target):
    """One round: merges the most similar even rows into their best odd row. -> (rows, new count).

    Order of the result: the remaining even rows, then all odd rows. rows: float32[K, D], of which the
    first `count` are in use.
    """
    even, odd = rows[0::2], rows[1::2]
    live_even = 2 * lax.iota(jnp.int32, even.shape[0]) < count
    live_odd = 2 * lax.iota(jnp.int32, odd.shape[0]) + 1 < count
    merges = jnp.minimum(count - target, (count + 1) // 2)

    similarity = jnp.einsum("ad,bd->ab", _unit(even), _unit(odd), precision="highest")
    similarity = jnp.where(live_odd, similarity, -jnp.inf)
    best = jnp.argmax(similarity, axis=1)
    joins = _rank(jnp.max(similarity, axis=1), live_even) < merges  # ties: the earlier row

    joined = (joins[:, None] & (best[:, None] == lax.iota(jnp.int32, odd.shape[0]))).astype(jnp.float32)
    total = odd + jnp.einsum("ab,ad->bd", joined, even, precision="highest")
    odd = total / (1.0 + jnp.sum(joined, axis=0))[:, None]

    stays = live_even & ~joins
    order = jnp.argsort(jnp.concatenate([~stays, ~live_odd]), stable=True)  # live rows first
    new_rows = jnp.concatenate([even, odd])[order]
    return jnp.where(merges > 0, new_rows, rows), count - merges


def _unit(x):
    norm = jnp.linalg.norm(x, axis=1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1.0)


# --- pruning -------------------------------------------------------------------------------------


def prune(
    relevance,
    *,
    drop_ratio: float = 0.5,
    keep_tokens: int = 0,
    max_tokens: int = 128,
    mode: str = "topk",
    key=None,
    valid=None,
) -> jax.Array:
    """Reduces some segments to `keep_tokens` and keeps the others whole: an ablation of `allocate`.

    See docs/reference/tempo.md#keeping-strategies.

    Args:
      relevance: float[S].
      drop_ratio: int(N * drop_ratio) of the N valid segments are reduced; a single one never is.
      keep_tokens: tokens that a reduced segment keeps; 0 drops it.
      max_tokens: tokens that the other segments keep.
      mode: which segments are reduced: "topk" the least relevant (the paper's name: it keeps the top
        k), "lastk" the most relevant, "random". Of equal scores the earlier, as in the reference.
      key: jax.random key, for "random" only.
      valid: bool[S], False where a segment is only padding; None means all are real.

    Returns:
      int32[S], 0 for padding.

    Raises:
      TempoError: An argument is invalid.
    """
    if mode not in PRUNE_MODES:
        raise TempoError(f"Unknown mode {mode!r}; choose one of {', '.join(PRUNE_MODES)}.")
    if not 0.0 <= drop_ratio <= 1.0:
        raise TempoError(f"drop_ratio is {drop_ratio}; give a number from 0 to 1.")
    if keep_tokens < 0 or max_tokens < 1:
        raise TempoError("keep_tokens must be 0 or more and max_tokens 1 or more.")
    relevance = jnp.asarray(relevance)
    valid = jnp.ones(relevance.shape, bool) if valid is None else jnp.asarray(valid, bool)
    # For every possible N, in Python's float64: float32 would give 29 for int(100 * 0.29).
    cuts = np.array([int(n * drop_ratio) if n > 1 else 0 for n in range(relevance.shape[0] + 1)], np.int32)
    kept = min(keep_tokens, max_tokens)
    return _prune(relevance, valid, cuts, kept, max_tokens, _checked_key(mode, key), mode=mode)


@functools.partial(jax.jit, static_argnames="mode")
def _prune(relevance, valid, cuts, keep_tokens, max_tokens, key, *, mode):
    score = relevance.astype(jnp.float32)
    if mode == "random":
        score = jax.random.uniform(key, score.shape)
    cut = _rank(score, valid, descending=mode == "lastk") < cuts[jnp.sum(valid)]
    return jnp.where(valid, jnp.where(cut, keep_tokens, max_tokens), 0).astype(jnp.int32)
