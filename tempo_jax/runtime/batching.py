"""Several questions about one open video: prefilled one by one, decoded as a batch.

A decode step reads all weights once, however many sequences it decodes.
"""

import dataclasses
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.runtime import generate
from tempo_jax.runtime.buckets import next_power_of_two
from tempo_jax.runtime.session import (
    STREAM_TOKENS,
    GenerationRequest,
    PrefilledRequest,
    TextStream,
    VideoSession,
)


@dataclasses.dataclass
class _ActiveRequest:
    """A request whose answer is being decoded."""

    request: GenerationRequest
    prefilled_request: PrefilledRequest  # without its state, whose caches are large
    text: TextStream
    state: generate.DecodeState | None  # None once it is part of a batch
    first_token_time: float = 0.0
    is_open: bool = True


def generate_batch(session: VideoSession, requests: Sequence[GenerationRequest]) -> None:
    """Answers the requests, each as `VideoSession.ask` would up to rounding, and sets their results.

    Greedy requests whose states have equal shapes share a decode loop. Sampled ones do not: their random
    numbers must not depend on the rest of the batch.
    """
    groups: dict[tuple, list[_ActiveRequest]] = {}
    for index, request in enumerate(requests):
        if request.is_cancelled():
            continue
        try:
            active = _prefill(session, request)
        except Exception as error:  # of this request only
            request.error = error
            continue
        group = 0 if request.options.greedy else index + 1
        shapes = tuple(x.shape for x in jax.tree.leaves(active.state))
        groups.setdefault((shapes, group), []).append(active)
    for group in groups.values():
        _decode_group(session, group)


def _prefill(session: VideoSession, request: GenerationRequest) -> _ActiveRequest:
    prefilled_request = session.prefill(
        request.question, request.options, request.progress, request.conversation
    )
    text = TextStream(session.system.tokenizer, session.system.config.eos_ids, request.stop)
    without_state = dataclasses.replace(prefilled_request, prefilled=None)
    return _ActiveRequest(request, without_state, text, prefilled_request.prefilled.state)


def _decode_group(session: VideoSession, group: list[_ActiveRequest]) -> None:
    """The decode loop of requests whose states have equal shapes."""
    system, eos = session.system, session.system.config.eos_ids
    max_count, limit = 1, max(active.request.options.max_new_tokens for active in group)
    sampling = group[0].prefilled_request.sampling
    greedy = group[0].prefilled_request.options.greedy
    with system.place():
        state = _batch_states([active.state for active in group])
        for active in group:
            active.state = None
        while any(active.is_open for active in group):
            state = generate.decode(system.model.llm, state, max_count, sampling, greedy=greedy, eos=eos)
            tokens_BN, count = np.asarray(state.tokens_BN), int(state.count)
            closed = [
                not _emit(session, active, tokens, count, eos) for active, tokens in zip(group, tokens_BN)
            ]
            done = np.pad(closed, (0, len(tokens_BN) - len(group)), constant_values=True)
            state = state._replace(done_B=state.done_B | jnp.asarray(done))
            max_count = min(limit, max_count + STREAM_TOKENS)


def _emit(
    session: VideoSession, active: _ActiveRequest, tokens_N: np.ndarray, count: int, eos: Sequence[int]
) -> bool:
    """Passes a request's new text on; returns whether decoding continues for it."""
    request = active.request
    if not active.is_open:
        return False
    active.first_token_time = active.first_token_time or time.perf_counter()
    limit = request.options.max_new_tokens
    ids = tokens_N[: min(count, limit)]
    ends = np.flatnonzero(np.isin(ids, eos))
    if len(ends):
        ids = ids[: ends[0] + 1]
    last = bool(len(ends)) or len(ids) >= limit
    active.is_open = not last and not request.is_cancelled()
    if request.is_cancelled():
        return False
    if delta := active.text.push(ids, last=last):
        request.on_text(delta)
    last = last or active.text.stopped
    active.is_open = not last
    if request.progress:
        request.progress("generating", len(ids), limit)
    if last:
        answer = session.result(active.prefilled_request, ids, active.first_token_time)
        request.finish(answer, active.text)
    return active.is_open


def _batch_states(states: list[generate.DecodeState]) -> generate.DecodeState:
    """Concatenates states, padded to a power of two (few shapes to compile) with finished ones."""
    if len(states) == 1:
        return states[0]
    missing = next_power_of_two(len(states)) - len(states)
    states = states + [s._replace(done_B=jnp.ones_like(s.done_B)) for s in states[:1] * missing]

    def concatenate(*leaves: jax.Array) -> jax.Array:
        return jnp.concatenate(leaves)

    first = states[0]
    return generate.DecodeState(
        tokens_BN=concatenate(*(s.tokens_BN for s in states)),
        count=first.count,
        length_B=jnp.concatenate([s.length_B for s in states], axis=-1),
        done_B=concatenate(*(s.done_B for s in states)),
        cache=jax.tree.map(concatenate, *(s.cache for s in states)),
        key=first.key,
    )
