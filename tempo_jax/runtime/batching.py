"""Answers decoded together, about any videos: a decode step reads all weights once, however many rows it has.

Requests are prefilled one by one and join the batch, each as a row of its own length, sampled by its own
parameters and key; a row leaves when its answer ends. Any thread that waits for an answer may run the next
steps, which decode for all.
"""

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.runtime import generate
from tempo_jax.runtime.buckets import next_power_of_two
from tempo_jax.runtime.prefetch import while_waiting
from tempo_jax.runtime.session import (
    STREAM_TOKENS,
    GenerationRequest,
    PrefilledRequest,
    System,
    TextStream,
    VideoSession,
)


@dataclasses.dataclass(eq=False)
class ActiveRequest:
    """A request whose answer is being decoded.

    Attributes:
      session: Of its video.
      request: The request.
      prefilled_request: Without its state, whose caches are large.
      text: What has been sent of it.
      shapes: Of its state's leaves, without `length_B`.
      ids: The new tokens so far.
      first_token_time: time.perf_counter() at the first token.
      is_open: Whether its answer has not ended.
    """

    session: VideoSession
    request: GenerationRequest
    prefilled_request: PrefilledRequest
    text: TextStream
    shapes: tuple[tuple[int, ...], ...]
    ids: np.ndarray
    first_token_time: float
    is_open: bool = True

    @property
    def limit(self) -> int:
        return self.request.options.max_new_tokens


class DecodeBatch:
    """The answers that a system decodes. All methods may be called from any thread."""

    def __init__(self, system: System):
        self._system = system
        self._lock = threading.Lock()  # held while the state changes
        self._rows: list[ActiveRequest | None] = []  # of the state; None where it pads to a power of two
        self._state: generate.DecodeState | None = None
        self._joining: list[tuple[ActiveRequest, generate.DecodeState]] = []  # at the next step

    def join(self, session: VideoSession, requests: Sequence[GenerationRequest]) -> list[ActiveRequest]:
        """Prefills the requests one by one; they are decoded by `finish`, of any thread.

        A request that fails has its error set, and one that is cancelled is left out.
        """
        joined = []
        try:
            for request in requests:
                if request.is_cancelled():
                    continue
                try:
                    joined.append(self._prefill(session, request))
                except Exception as error:  # of this request only
                    request.error = error
        except BaseException:
            self._leave(joined)
            raise
        return joined

    def finish(self, joined: Sequence[ActiveRequest]) -> None:
        """Decodes until these answers have ended; those of others are decoded meanwhile."""
        try:
            while open_requests := [active for active in joined if active.is_open]:
                self._step()
                for active in open_requests:
                    if active.request.progress:
                        active.request.progress("generating", len(active.ids), active.limit)
        finally:
            self._leave(joined)

    def _prefill(self, session: VideoSession, request: GenerationRequest) -> ActiveRequest:
        prefilled_request = session.prefill(
            request.question, request.options, request.progress, request.conversation
        )
        state = prefilled_request.prefilled.state
        active = ActiveRequest(
            session,
            request,
            dataclasses.replace(prefilled_request, prefilled=None),
            TextStream(self._system.tokenizer, self._system.config.eos_ids, request.stop),
            tuple(x.shape for x in jax.tree.leaves(state._replace(length_B=None))),
            np.asarray(state.tokens_BN)[0, :1],
            time.perf_counter(),
        )
        self._emit(active, active.ids, done=bool(state.done_B[0]))
        if active.is_open:
            with self._exclusive():
                self._joining.append((active, state))
        return active

    def _leave(self, requests: Sequence[ActiveRequest]) -> None:
        """Ends requests; the next step frees their rows, and the last one to leave frees all."""
        for active in requests:
            active.is_open = False
        with self._exclusive():
            rows = (*self._rows, *(active for active, _ in self._joining))
            if not any(active and active.is_open for active in rows):
                self._rows, self._state, self._joining = [], None, []

    def _step(self) -> None:
        """Decodes some tokens of every answer.

        An error that leaves the state as it was, as where compiling fails or this thread's requests are
        cancelled meanwhile, is raised: it is of those that this thread answers. Others end all answers.
        """
        with self._exclusive(), self._system.place():
            try:
                self._update_rows()
                if self._state is not None:
                    self._decode()
            except BaseException as error:
                if self._state is not None and not self._state.done_B.is_deleted():
                    raise
                for active in (*filter(None, self._rows), *(active for active, _ in self._joining)):
                    active.request.error, active.is_open = error, False
                self._rows, self._state, self._joining = [], None, []
                if not isinstance(error, Exception):
                    raise

    def _decode(self) -> None:
        limits = [
            min(active.limit, len(active.ids) + STREAM_TOKENS) if active else 0 for active in self._rows
        ]
        self._state = generate.decode(
            self._system.model.llm,
            self._state,
            np.asarray(limits, np.int32),
            greedy=all(active.request.options.greedy for active in self._rows if active),
            eos=self._system.config.eos_ids,
        )
        tokens_BN, counts, done = jax.device_get(
            (self._state.tokens_BN, self._state.count_B, self._state.done_B)
        )
        for row, active in enumerate(self._rows):
            if active and active.is_open:
                try:
                    self._emit(active, tokens_BN[row, : counts[row]], done=bool(done[row]))
                except Exception as error:  # of this request only
                    active.request.error, active.is_open = error, False

    def _emit(self, active: ActiveRequest, ids_N: np.ndarray, *, done: bool) -> None:
        """Passes a request's new text on, and its answer at the end."""
        request, active.ids = active.request, ids_N
        if request.is_cancelled():
            active.is_open = False
            return
        last = done or len(ids_N) >= active.limit
        if delta := active.text.push(ids_N, last=last):
            request.on_text(delta)
        if last or active.text.stopped:
            answer = active.session.result(active.prefilled_request, ids_N, active.first_token_time)
            request.finish(answer, active.text)
            active.is_open = False

    def _update_rows(self) -> None:
        """Takes up those that join; drops the rows of those that have left where that halves the batch."""
        self._joining = joining = [(active, state) for active, state in self._joining if active.is_open]
        staying = [row for row, active in enumerate(self._rows) if active and active.is_open]
        size = len(staying) + len(joining)
        if not size:
            self._rows, self._state = [], None
            return
        if not joining and next_power_of_two(size) == len(self._rows):
            return
        states = [self._state] if staying else []
        rows = [self._rows[row] for row in staying] + [active for active, _ in joining]
        index = staying + [len(self._rows) * bool(staying) + number for number in range(len(joining))]
        states += [state for _, state in joining]
        padding = next_power_of_two(size) - size
        joining.clear()  # gather_rows alone is to hold the states
        self._rows, self._state = rows + [None] * padding, None
        self._state = gather_rows(states, index + index[:1] * padding, size, [a.shapes for a in rows])

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """While no other thread is within; the device is lent to others during the wait."""
        if not self._lock.acquire(blocking=False):
            with contextlib.ExitStack() as lent:
                lent.enter_context(while_waiting.get()())
                self._lock.acquire()
                try:
                    lent.close()  # waits for the device
                except BaseException:
                    self._lock.release()
                    raise
        try:
            yield
        finally:
            self._lock.release()


def gather_rows(
    states: list[generate.DecodeState], index: Sequence[int], size: int, shapes: Sequence[tuple]
) -> generate.DecodeState:
    """A state of some rows of others, which it empties leaf by leaf: a second copy is held of one at a time.

    Args:
      states: States with the same parameters of sampling and leaves of any capacity.
      index: Row of each new row in the concatenation of all states.
      size: New rows that are in use.
      shapes: Of the leaves, without `length_B`, that the rows in use had when they were alone.
    """
    length_B = _gather_lengths([state.length_B for state in states], index)
    trees = [jax.tree.flatten(state._replace(length_B=None)) for state in states]
    states.clear()
    lists, structure = [leaves for leaves, _ in trees], trees[0][1]
    leaves = []
    for number in range(structure.num_leaves):
        shape = (len(index), *np.max([one[number][1:] for one in shapes], axis=0).tolist())
        leaves.append(_gather_leaf([x[number] for x in lists], np.asarray(index), shape=shape))
        for x in lists:
            x[number] = None
    state = structure.unflatten(leaves)
    return state._replace(length_B=length_B, done_B=state.done_B | (np.arange(len(index)) >= size))


def _gather_lengths(lengths: list[jax.Array], index: Sequence[int]) -> jax.Array:
    """Rows of `DecodeState.length_B`; by layer, [layers, rows], where that of one state is (LP-Comp)."""
    layers = max((x.shape[0] for x in lengths if x.ndim == 2), default=None)
    if layers is not None:
        lengths = [jnp.broadcast_to(x, (layers, x.shape[-1])) for x in lengths]
    return jnp.concatenate(lengths, axis=-1)[..., np.asarray(index)]


@functools.partial(jax.jit, static_argnames="shape")
def _gather_leaf(leaves: list, index, *, shape: tuple[int, ...]):
    """Rows of the leaves' concatenation; other dimensions are cut or padded to those of `shape`."""

    def resize(x):
        for dimension, size in enumerate(shape[1:], 1):
            if x.shape[dimension] != size:
                x = jax.lax.slice_in_dim(x, 0, min(size, x.shape[dimension]), axis=dimension)
                width = [(0, size - x.shape[dimension] if d == dimension else 0) for d in range(x.ndim)]
                x = jnp.pad(x, width)
        return x

    return jnp.concatenate([resize(x) for x in leaves])[index]
