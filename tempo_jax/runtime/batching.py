"""Several questions about one open video: each read on its own, their answers written together.

Writing an answer reads all weights once a token, however many answers are written at a time.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.runtime import generate
from tempo_jax.runtime.buckets import power_of_two
from tempo_jax.runtime.session import STREAM_TOKENS, OpenVideo, TextStream, Turn


@dataclasses.dataclass
class _Row:
    """A turn whose answer is being written."""

    turn: Turn
    asked: Any  # without prefilled, whose keys and values are large
    text: TextStream
    state: generate.Generation | None  # until it is joined with the others
    first_token: float = 0.0
    open: bool = True


def answer_together(clip: OpenVideo, turns: Sequence[Turn]) -> None:
    """Answers the turns, each as `OpenVideo.ask` would up to floating-point rounding; sets their results.

    Greedy answers of one shape share the decode loop. Sampled ones do not: their random numbers
    must not depend on who else asks.
    """
    groups: dict[tuple, list[_Row]] = {}
    for number, turn in enumerate(turns):
        if turn.cancelled():
            continue
        try:
            row = _read(clip, turn)
        except Exception as error:  # of this question alone
            turn.error = error
            continue
        sampled = 0 if turn.options.greedy else number + 1
        shapes = tuple(x.shape for x in jax.tree.leaves(row.state))
        groups.setdefault((shapes, sampled), []).append(row)
    for rows in groups.values():
        _write(clip, rows)


def _read(clip: OpenVideo, turn: Turn) -> _Row:
    asked = clip.prefill(turn.question, turn.options, turn.progress, turn.conversation)
    text = TextStream(clip.system.tokenizer, clip.system.config.eos_ids, turn.stop)
    return _Row(turn, dataclasses.replace(asked, prefilled=None), text, asked.prefilled.generation)


def _write(clip: OpenVideo, rows: list[_Row]) -> None:
    """The decode loop of rows whose states have one shape."""
    system, eos = clip.system, clip.system.config.eos_ids
    until, most = 1, max(row.turn.options.max_new_tokens for row in rows)
    options, sampling = rows[0].asked.options, rows[0].asked.sampling
    with system.place():
        state = _stacked([row.state for row in rows])
        for row in rows:
            row.state = None
        while any(row.open for row in rows):
            state = generate.advance(system.model.llm, state, until, sampling, greedy=options.greedy, eos=eos)
            tokens_BN, count = np.asarray(state.tokens_BN), int(state.count)
            closed = [not _hear(clip, row, tokens, count, eos) for row, tokens in zip(rows, tokens_BN)]
            done = np.pad(closed, (0, len(tokens_BN) - len(rows)), constant_values=True)
            state = state._replace(done_B=state.done_B | jnp.asarray(done))
            until = min(most, until + STREAM_TOKENS)


def _hear(clip: OpenVideo, row: _Row, tokens_N: np.ndarray, count: int, eos: Sequence[int]) -> bool:
    """Passes on what is new of a row; whether it goes on."""
    if not row.open:
        return False
    row.first_token = row.first_token or time.perf_counter()
    most = row.turn.options.max_new_tokens
    ids = tokens_N[: min(count, most)]
    ends = np.flatnonzero(np.isin(ids, eos))
    if len(ends):
        ids = ids[: ends[0] + 1]
    last = bool(len(ends)) or len(ids) >= most
    row.open = not last and not row.turn.cancelled()
    if row.turn.cancelled():
        return False
    if piece := row.text.push(ids, last=last):
        row.turn.piece(piece)
    last = last or row.text.stopped
    row.open = not last
    if row.turn.progress:
        row.turn.progress("generating", len(ids), most)
    if last:
        row.turn.finish(clip.result(row.asked, ids, row.first_token), row.text)
    return row.open


def _stacked(states: list[generate.Generation]) -> generate.Generation:
    """One state of all rows, filled to a power of two (few shapes to compile for) with finished ones."""
    if len(states) == 1:
        return states[0]
    missing = power_of_two(len(states)) - len(states)
    states = states + [s._replace(done_B=jnp.ones_like(s.done_B)) for s in states[:1] * missing]

    def join(*leaves: jax.Array) -> jax.Array:
        return jnp.concatenate(leaves)

    first = states[0]
    return generate.Generation(
        tokens_BN=join(*(s.tokens_BN for s in states)),
        count=first.count,
        length_B=jnp.concatenate([s.length_B for s in states], axis=-1),
        done_B=join(*(s.done_B for s in states)),
        cache=jax.tree.map(join, *(s.cache for s in states)),
        key=first.key,
    )
