"""The decode loop, on the device: greedy or temperature/top-p sampling over a KV cache."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.models.decoder import KV, Decoder
from tempo_jax.runtime.compiling import Precompiled


class SamplingParams(NamedTuple):
    """How the next token is sampled; the leading axes of the arrays are those of the batch, if any."""

    temperature: jax.Array  # float32, 0 takes the likeliest token
    top_p: jax.Array  # float32, 1.0 keeps every token
    key: jax.Array
    # Divisor of the logits of tokens that the answer already has (a factor where they are negative); prompt
    # tokens do not count. None: no penalty.
    repetition_penalty: jax.Array | None = None


class DecodeState(NamedTuple):
    """A batch of unfinished answers. A row depends on no other one: each has its own length and key."""

    tokens_BN: jax.Array  # int32, `count_B` of a row are real
    count_B: jax.Array  # int32, new tokens so far; the last one is not in the cache yet
    length_B: jax.Array  # int32, prompt tokens; [layers, B] where layers hold different numbers of tokens
    done_B: jax.Array  # bool, the sequence has an end token
    cache: list[KV]  # per layer [B, kv_heads, S, head_dim], S >= prompt bucket + N
    sampling: SamplingParams  # of each row


def init_decode_state(
    logits_BV,
    length_B,
    caches: list[KV],
    sampling: SamplingParams,
    *,
    capacity: int,
    greedy: bool,
    eos,
    unused: int = 0,
) -> DecodeState:
    """The state after prefill: with the first token, and caches extended by `capacity` slots.

    caches: [B, S, kv_heads, head_dim]; the state has them head-major, as TPUs read them for one query.
    sampling: Of all rows, which are sampled alike.
    unused: Further slots, by which caches of several prefill buckets have one length.
    """
    batch = logits_BV.shape[0]
    sampling = jax.tree.map(lambda x: jnp.broadcast_to(x, batch), sampling)
    token_B, sampling = _next_token(logits_BV, sampling, greedy)
    padding = ((0, 0), (0, 0), (0, capacity + unused), (0, 0))
    tokens = jnp.zeros((batch, capacity), jnp.int32).at[:, 0].set(token_B)
    return DecodeState(
        tokens_BN=tokens,
        count_B=jnp.ones(batch, jnp.int32),
        length_B=length_B,
        done_B=_is_eos(token_B, eos),
        cache=jax.tree.map(lambda x: jnp.pad(x.swapaxes(1, 2), padding), caches),
        sampling=sampling,
    )


@Precompiled
@functools.partial(jax.jit, static_argnames=("greedy", "eos"), donate_argnames=("state",))
@jax.named_scope("decode")
def decode(
    llm: Decoder, state: DecodeState, max_count_B, *, greedy: bool, eos: tuple[int, ...]
) -> DecodeState:
    """Decodes until every sequence has its number of new tokens or an end token.

    Args:
      llm: The decoder.
      state: From `init_decode_state` or `batching`; its buffers are donated.
      max_count_B: int32, number of new tokens of each sequence.
      greedy: Whether all rows are: the program then samples nothing.
      eos: End tokens.
    """

    def active(state: DecodeState):
        return ~state.done_B & (state.count_B < max_count_B)

    def body(state: DecodeState) -> DecodeState:
        active_B, tokens = active(state), state.tokens_BN
        last_B = jnp.take_along_axis(tokens, state.count_B[:, None] - 1, axis=1)[:, 0]
        # A row that is not active writes again what its last slot would hold.
        hidden, cache = llm.decode_step(
            llm.embed(last_B)[:, None], state.length_B + state.count_B - 1, state.cache
        )
        logits = llm.logits(hidden[:, 0])
        if state.sampling.repetition_penalty is not None:
            logits = _penalize_repeats(logits, state)
        token_B, sampling = _next_token(logits, state.sampling, greedy)
        slot_B = jnp.where(active_B, state.count_B, tokens.shape[1])
        return DecodeState(
            tokens_BN=tokens.at[jnp.arange(len(tokens)), slot_B].set(token_B, mode="drop"),
            count_B=state.count_B + active_B,
            length_B=state.length_B,
            done_B=state.done_B | (active_B & _is_eos(token_B, eos)),
            cache=cache,
            sampling=sampling._replace(key=jnp.where(active_B, sampling.key, state.sampling.key)),
        )

    return jax.lax.while_loop(lambda state: jnp.any(active(state)), body, state)


def _next_token(logits_BV, sampling: SamplingParams, greedy: bool) -> tuple[jax.Array, SamplingParams]:
    """The next token of each row, int32 [B], and the sampling after it: with new keys if any were used."""
    if greedy:
        return sample_token(logits_BV, sampling, greedy), sampling
    keys_B2 = jax.vmap(jax.random.split)(sampling.key)
    token_B = sample_token(logits_BV, sampling._replace(key=keys_B2[:, 1]), greedy)
    return token_B, sampling._replace(key=keys_B2[:, 0])


def _penalize_repeats(logits_BV, state: DecodeState):
    tokens, penalty = state.tokens_BN, state.sampling.repetition_penalty[:, None]
    generated = jnp.where(jnp.arange(tokens.shape[1]) < state.count_B[:, None], tokens, tokens[:, :1])
    batch = jnp.arange(tokens.shape[0])[:, None]
    already_generated = jnp.zeros(logits_BV.shape, bool).at[batch, generated].set(True)
    penalized = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return jnp.where(already_generated, penalized, logits_BV)


def sample_token(logits_BV, sampling: SamplingParams, greedy: bool):
    """Next token ids, int32 [B]; greedy: as if the temperatures of all rows were 0."""
    likeliest = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    if greedy:
        return likeliest
    is_sampled = sampling.temperature > 0
    logits = logits_BV.astype(jnp.float32) / jnp.where(is_sampled, sampling.temperature, 1.0)[:, None]
    sampled = jax.vmap(jax.random.categorical)(sampling.key, top_p(logits, sampling.top_p[:, None]))
    return jnp.where(is_sampled, sampled.astype(jnp.int32), likeliest)


def top_p(logits_BV, p):
    """Sets logits outside the smallest set of tokens with total probability >= p to -inf.

    p: A number, or [B, 1] of each row. The likeliest token always remains.
    """
    ordered = jnp.sort(logits_BV, axis=-1, descending=True)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    cumulative_before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = jnp.sum(cumulative_before < p, axis=-1, keepdims=True)
    threshold = jnp.take_along_axis(ordered, jnp.maximum(kept, 1) - 1, axis=-1)
    return jnp.where(logits_BV >= threshold, logits_BV, -jnp.inf)


def _is_eos(token_B, eos: tuple[int, ...]):
    return jnp.isin(token_B, jnp.asarray(eos, jnp.int32))
