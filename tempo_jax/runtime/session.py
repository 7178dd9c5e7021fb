"""A video session, the base of both systems' clips: answers questions about an open video."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import jax
import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.prompts import DEFAULT_QUESTION, Message, Tokenizer
from tempo_jax.runtime import generate
from tempo_jax.runtime.placement import Placement
from tempo_jax.runtime.results import Answer, Inspection


def answer_text(tokenizer: Tokenizer, ids: Sequence[int], eos: Sequence[int]) -> str:
    """Decodes an answer's tokens, without end tokens, special tokens and outer white space."""
    return tokenizer.decode([i for i in ids if i not in eos]).strip()


class TextStream:
    """Cuts a growing list of token ids into text deltas whose concatenation is `answer_text`.

    Text that may still change is held back: a character whose bytes are incomplete, and white space that may
    turn out to be trailing.

    Attributes:
      sent: The text returned so far.
      stopped: Whether a stop sequence was met.
    """

    def __init__(self, tokenizer: Tokenizer, eos: Sequence[int], stop: Sequence[str] = ()):
        """stop: sequences before which the answer ends."""
        self._tokenizer, self._eos, self._stop = tokenizer, eos, stop
        self.sent, self.stopped = "", False

    def push(self, ids: Sequence[int], *, last: bool) -> str:
        """Returns the next text delta, which may be empty, given all ids so far."""
        if self.stopped:
            return ""
        text = answer_text(self._tokenizer, ids, self._eos)
        ends = [text.find(stop) for stop in self._stop if stop in text]
        self.stopped = bool(ends)
        if ends:
            text = text[: min(ends)].rstrip()
        elif not last:
            text = text.rstrip("\ufffd").rstrip()
            held_back = max((_partial_stop_length(text, stop) for stop in self._stop), default=0)
            text = text[: len(text) - held_back].rstrip()
        if not text.startswith(self.sent):
            return ""
        delta = text[len(self.sent) :]
        self.sent = text
        return delta


def _partial_stop_length(text: str, stop: str) -> int:
    """How many characters at the text's end may be the beginning of `stop`."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if stop.startswith(text[-length:])), 0)


STREAM_TOKENS = 8  # new tokens between two text deltas of a streamed answer

Progress = Callable[[str, int, int], None] | None  # (stage, done, total)


@dataclasses.dataclass
class GenerationRequest:
    """A question, and callbacks for its answer.

    Attributes:
      question: The question.
      options: Options of the system.
      on_text: Called with each text delta.
      is_cancelled: Called between deltas; once it returns True, decoding of this request stops.
      progress: Called with (stage, done, total).
      conversation: Earlier messages (`Tokenizer.chat_ids`).
      stop: Sequences before which the answer ends.
      answer: The answer; None if the request was canceled or failed.
      error: Why the request failed.
      stopped: Whether the answer was cut before a stop sequence.
    """

    question: str
    options: Any
    on_text: Callable[[str], None] = lambda text: None
    is_cancelled: Callable[[], bool] = lambda: False
    progress: Progress = None
    conversation: Sequence[Message] = ()
    stop: Sequence[str] = ()
    answer: Answer | None = None
    error: Exception | None = None
    stopped: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether there is an answer or an error."""
        return self.answer is not None or self.error is not None

    def finish(self, answer: Answer, text: TextStream) -> None:
        """Sets the answer, cut before the stop sequence that was met, if any."""
        self.stopped = text.stopped
        self.answer = dataclasses.replace(answer, text=text.sent) if text.stopped else answer


class Prefilled(Protocol):
    """The LLM after its prompt."""

    logits_BV: jax.Array
    state: generate.DecodeState


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefilledRequest:
    """A question whose prompt is prefilled: all that decoding and the answer need. Systems add their own
    fields.

    Attributes:
      options: Options of the system.
      prefilled: The LLM after the prompt; None once a batch owns its state.
      budget: Maximum number of visual tokens.
      prompt_tokens: Length of the LLM's prompt.
      warnings: Whole sentences.
      start_time: time.perf_counter() when the question was asked.
      allocation_time: time.perf_counter() when the LLM's visual tokens were known.
    """

    options: Any
    prefilled: Prefilled | None
    budget: int
    prompt_tokens: int
    warnings: tuple[str, ...]
    start_time: float
    allocation_time: float


class System(Protocol):
    """A loaded model and what answering needs, such as `tempo.engine.Tempo` and `xcomp.engine.XComp`."""

    config: Any
    tokenizer: Tokenizer
    model: Any
    dtype: Any
    place: Placement
    decode_batch: Any  # batching.DecodeBatch, which imports this module


class VideoSession:
    """An open video. A system's clip defines `options`, `prefill`, `result`, `inspect` and `release`.

    Attributes:
      last_answer: The Answer of the latest question, also after `stream`.
    """

    options: ClassVar[type]  # validates the options of one question

    def __init__(self, system: System):
        self.system = system
        self.last_answer: Answer | None = None

    def prefill(
        self,
        question: str,
        options: Any,
        progress: Progress = None,
        conversation: Sequence[Message] = (),
    ) -> PrefilledRequest:
        """Computes everything up to the LLM's first logits."""
        raise NotImplementedError

    def result(self, request: PrefilledRequest, ids: np.ndarray, first_token_time: float) -> Answer:
        """The Answer of these token ids. first_token_time: time.perf_counter() at the first token."""
        raise NotImplementedError

    def inspect(self, question: str, **options: Any) -> Inspection:
        """Returns the intermediate values between video and answer."""
        raise NotImplementedError

    def release(self) -> None:
        """Drops what is cached of the video; a further question decodes it again."""
        raise NotImplementedError

    def ask(self, question: str, *, progress: Progress = None, **options: Any) -> Answer:
        """Answers a question about the video.

        Args:
          question: The question.
          progress: Called with (stage, done, total).
          **options: As in the system's `ask`.

        Raises:
          TempoError: An option is invalid, or the video cannot be decoded.
        """
        request = GenerationRequest(question, self.options(**options), progress=progress)
        for _ in self._answer(request, stream_every=None):
            pass
        return self.last_answer

    def stream(self, question: str, *, progress: Progress = None, **options: Any) -> Iterator[str]:
        """Yields the answer's text in deltas, together `last_answer.text`; arguments as in `ask`."""
        request = GenerationRequest(question, self.options(**options), progress=progress)
        return self._answer(request, stream_every=STREAM_TOKENS)

    def answer(self, requests: Sequence[GenerationRequest]) -> None:
        """Answers the requests, each as `ask` would up to floating-point rounding, and sets their results.

        They are decoded together, and with those that other threads answer meanwhile, about any video.
        """
        batch = self.system.decode_batch
        batch.finish(batch.join(self, requests))

    def _answer(self, request: GenerationRequest, stream_every: int | None) -> Iterator[str]:
        """Yields a text delta every `stream_every` new tokens (None: once, at the end); sets the answer."""
        self.last_answer = None
        options, progress = request.options, request.progress
        prefilled_request = self.prefill(request.question, options, progress, request.conversation)
        system, eos = self.system, self.system.config.eos_ids
        state, text = prefilled_request.prefilled.state, TextStream(system.tokenizer, eos, request.stop)
        first_token_time, max_count, last = None, 1, False
        while not last:
            with system.place():
                state = generate.decode(
                    system.model.llm,
                    state,
                    np.full(1, max_count, np.int32),
                    greedy=options.greedy,
                    eos=eos,
                )
            ids = np.asarray(state.tokens_BN)[0, : int(state.count_B[0])]
            first_token_time = first_token_time or time.perf_counter()
            last = bool(np.asarray(state.done_B)[0]) or len(ids) >= options.max_new_tokens
            delta = text.push(ids, last=last)
            last = last or text.stopped
            if delta:
                yield delta
            if progress:
                progress("generating", len(ids), options.max_new_tokens)
            max_count = min(options.max_new_tokens, max_count + (stream_every or options.max_new_tokens))
        request.finish(self.result(prefilled_request, ids, first_token_time), text)
        self.last_answer = request.answer


def timings(request: PrefilledRequest, video_seconds: float, first_token_time: float) -> dict[str, float]:
    """Answer.timings, in seconds, of an answer that was completed just now."""
    now = time.perf_counter()
    return {
        "video": video_seconds,
        "compress": request.allocation_time - request.start_time,
        "first_token": first_token_time - request.start_time,
        "answer": now - request.allocation_time,
        "total": now - request.start_time,
    }


def validate_question(question: str) -> tuple[str, list[str]]:
    """Returns the question, or the reference's default for an empty one with a warning.

    Raises:
      TempoError: The question is not text.
    """
    if not isinstance(question, str):
        raise TempoError(f"The question is of type {type(question).__name__}, but it must be text.")
    question = question.encode("utf-8", "replace").decode()  # lone surrogates are not valid text
    if question.strip():
        return question, []
    return DEFAULT_QUESTION, [f'The question is empty, so the default one is asked: "{DEFAULT_QUESTION}"']
