"""The decode loop, on the device: greedy or temperature/top-p sampling over a KV cache."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.models.decoder import KV, Decoder


class SamplingParams(NamedTuple):
    """How the next token is chosen; temperature 0 (greedy) is a program of its own."""

    temperature: jax.Array  # float32
    top_p: jax.Array  # float32, 1.0 keeps everything
    key: jax.Array


class DecodeState(NamedTuple):
    """A batch of unfinished answers."""

    tokens_BN: jax.Array  # int32, `count` of them real
    count: jax.Array  # int32, tokens per row so far; the last one is not in the cache yet
    length_B: jax.Array  # int32, prompt tokens per row; [layers, B] where layers hold different numbers
    done_B: jax.Array  # bool, the row has met an end token
    cache: list[KV]  # per layer [B, kv_heads, S, head_dim], S >= bucket + N
    key: jax.Array


def init_decode_state(
    logits_BV, length_B, caches: list[KV], sampling: SamplingParams, *, capacity: int, greedy: bool, eos
):
    """The state after prefill: the first token chosen, caches widened by `capacity` tokens.

    caches: [B, S, kv_heads, head_dim]; of the state head by head, as a TPU reads them for one query.
    """
    key, used = jax.random.split(sampling.key)
    token_B = sample_token(logits_BV, sampling._replace(key=used), greedy)
    widths = ((0, 0), (0, 0), (0, capacity), (0, 0))
    tokens = jnp.zeros((token_B.shape[0], capacity), jnp.int32).at[:, 0].set(token_B)
    return DecodeState(
        tokens_BN=tokens,
        count=jnp.int32(1),
        length_B=length_B,
        done_B=_is_eos(token_B, eos),
        cache=jax.tree.map(lambda x: jnp.pad(x.swapaxes(1, 2), widths), caches),
        key=key,
    )


@functools.partial(jax.jit, static_argnames=("greedy", "eos"), donate_argnames=("state",))
def decode(
    llm: Decoder,
    state: DecodeState,
    max_count,
    sampling: SamplingParams,
    *,
    greedy: bool,
    eos,
    repetition_penalty=None,
):
    """Generates until every row has `until` tokens or has ended; `until` may be traced.

    repetition_penalty: None, or what logits of tokens that the answer already has are divided by, and
    multiplied by where they are negative; may be traced. Prompts do not count.
    """

    def unfinished(state: DecodeState):
        return (state.count < max_count) & ~jnp.all(state.done_B)

    def body(state: DecodeState) -> DecodeState:
        last_B = jax.lax.dynamic_index_in_dim(state.tokens_BN, state.count - 1, axis=1, keepdims=False)
        position_B = state.length_B + state.count - 1
        hidden, cache = llm.decode_step(llm.embed(last_B)[:, None], position_B, state.cache)
        key, used = jax.random.split(state.key)
        logits = llm.logits(hidden[:, 0])
        if repetition_penalty is not None:
            logits = _penalize_repeats(logits, state, repetition_penalty)
        token_B = sample_token(logits, sampling._replace(key=used), greedy)
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
    own = jnp.where(jnp.arange(tokens.shape[1]) < state.count, tokens, tokens[:, :1])
    rows = jnp.arange(tokens.shape[0])[:, None]
    said = jnp.zeros(logits_BV.shape, bool).at[rows, own].set(True)
    lowered = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return jnp.where(said, lowered, logits_BV)


def sample_token(logits_BV, sampling: SamplingParams, greedy: bool):
    """Next token ids, int32 [B]."""
    if greedy:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits = logits_BV.astype(jnp.float32) / sampling.temperature
    return jax.random.categorical(sampling.key, top_p(logits, sampling.top_p)).astype(jnp.int32)


def top_p(logits_BV, p):
    """Logits with all but the smallest set of tokens of total probability >= p at -inf.

    The likeliest token always stays.
    """
    ordered = jnp.sort(logits_BV, axis=-1, descending=True)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = jnp.sum(before < p, axis=-1, keepdims=True)
    threshold = jnp.take_along_axis(ordered, jnp.maximum(kept, 1) - 1, axis=-1)
    return jnp.where(logits_BV >= threshold, logits_BV, -jnp.inf)


def _is_eos(token_B, eos: tuple[int, ...]):
    return jnp.isin(token_B, jnp.asarray(eos, jnp.int32))
