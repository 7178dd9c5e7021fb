"""The decode loop, on the device: greedy or temperature/top-p sampling over a KV cache."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.models.decoder import KV, Decoder
from tempo_jax.runtime.compiling import Precompiled


class SamplingParams(NamedTuple):
    """How the next token is sampled; greedy decoding is a program of its own."""

    temperature: jax.Array  # float32
    top_p: jax.Array  # float32, 1.0 keeps every token
    key: jax.Array


class DecodeState(NamedTuple):
    """A batch of unfinished answers."""

    tokens_BN: jax.Array  # int32, `count` of them real
    count: jax.Array  # int32, new tokens per sequence so far; the last one is not in the cache yet
    length_B: jax.Array  # int32, prompt tokens; [layers, B] where layers hold different numbers of tokens
    done_B: jax.Array  # bool, the sequence has an end token
    cache: list[KV]  # per layer [B, kv_heads, S, head_dim], S >= prompt bucket + N
    key: jax.Array


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
    unused: Further slots, by which caches of several prefill buckets have one length.
    """
    key, sample_key = jax.random.split(sampling.key)
    token_B = sample_token(logits_BV, sampling._replace(key=sample_key), greedy)
    padding = ((0, 0), (0, 0), (0, capacity + unused), (0, 0))
    tokens = jnp.zeros((token_B.shape[0], capacity), jnp.int32).at[:, 0].set(token_B)
    return DecodeState(
        tokens_BN=tokens,
        count=jnp.int32(1),
        length_B=length_B,
        done_B=_is_eos(token_B, eos),
        cache=jax.tree.map(lambda x: jnp.pad(x.swapaxes(1, 2), padding), caches),
        key=key,
    )


@Precompiled
@functools.partial(jax.jit, static_argnames=("greedy", "eos"), donate_argnames=("state",))
@jax.named_scope("decode")
def decode(
    llm: Decoder,
    state: DecodeState,
    max_count,
    sampling: SamplingParams,
    *,
    greedy: bool,
    eos: tuple[int, ...],
    repetition_penalty=None,
) -> DecodeState:
    """Decodes until every sequence has `max_count` new tokens or an end token.

    Args:
      llm: The decoder.
      state: From `init_decode_state`; its buffers are donated.
      max_count: May be traced.
      sampling: Its key is not used: the state has its own.
      greedy: Takes the likeliest token.
      eos: End tokens; finished sequences are padded with the first one.
      repetition_penalty: Divisor of the logits of tokens that the answer already has (a factor where they are
        negative); may be traced. Prompt tokens do not count. None: no penalty.
    """

    def unfinished(state: DecodeState):
        return (state.count < max_count) & ~jnp.all(state.done_B)

    def body(state: DecodeState) -> DecodeState:
        last_B = jax.lax.dynamic_index_in_dim(state.tokens_BN, state.count - 1, axis=1, keepdims=False)
        position_B = state.length_B + state.count - 1
        hidden, cache = llm.decode_step(llm.embed(last_B)[:, None], position_B, state.cache)
        key, sample_key = jax.random.split(state.key)
        logits = llm.logits(hidden[:, 0])
        if repetition_penalty is not None:
            logits = _penalize_repeats(logits, state, repetition_penalty)
        token_B = sample_token(logits, sampling._replace(key=sample_key), greedy)
        token_B = jnp.where(state.done_B, eos[0], token_B)
        return DecodeState(
            tokens_BN=state.tokens_BN.at[:, state.count].set(token_B),
            count=state.count + 1,
            length_B=state.length_B,
            done_B=state.done_B | _is_eos(token_B, eos),
            cache=cache,
            key=key,
        )

    return jax.lax.while_loop(unfinished, body, state)


def _penalize_repeats(logits_BV, state: DecodeState, penalty):
    tokens = state.tokens_BN
    generated = jnp.where(jnp.arange(tokens.shape[1]) < state.count, tokens, tokens[:, :1])
    batch = jnp.arange(tokens.shape[0])[:, None]
    already_generated = jnp.zeros(logits_BV.shape, bool).at[batch, generated].set(True)
    penalized = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return jnp.where(already_generated, penalized, logits_BV)


def sample_token(logits_BV, sampling: SamplingParams, greedy: bool):
    """Next token ids, int32 [B]."""
    if greedy:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits = logits_BV.astype(jnp.float32) / sampling.temperature
    return jax.random.categorical(sampling.key, top_p(logits, sampling.top_p)).astype(jnp.int32)


def top_p(logits_BV, p):
    """Sets logits outside the smallest set of tokens with total probability >= p to -inf.

    The likeliest token always remains.
    """
    ordered = jnp.sort(logits_BV, axis=-1, descending=True)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    cumulative_before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = jnp.sum(cumulative_before < p, axis=-1, keepdims=True)
    threshold = jnp.take_along_axis(ordered, jnp.maximum(kept, 1) - 1, axis=-1)
    return jnp.where(logits_BV >= threshold, logits_BV, -jnp.inf)


def _is_eos(token_B, eos: tuple[int, ...]):
    return jnp.isin(token_B, jnp.asarray(eos, jnp.int32))
