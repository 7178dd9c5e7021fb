"""What an open video of any system does with a question: answer, stream, time it."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.prompts import DEFAULT_QUESTION, Message, Tokenizer
from tempo_jax.runtime import generate
from tempo_jax.runtime.placement import Placement
from tempo_jax.runtime.results import Answer, Inspection


def finished_text(tokenizer: Tokenizer, ids: Sequence[int], eos: Sequence[int]) -> str:
    """The answer's text: without the end token, special tokens and outer white space."""
    return tokenizer.decode([i for i in ids if i not in eos]).strip()


class TextStream:
    """Cuts a growing list of ids into pieces of text that join to `finished_text`.

    What may still change is held back: a character whose bytes are not complete, and white space
    that may turn out to be the end. stop: texts before which the answer ends; `stopped` tells that one came.
    """

    def __init__(self, tokenizer: Tokenizer, eos: Sequence[int], stop: Sequence[str] = ()):
        self._tokenizer, self._eos, self._stop = tokenizer, eos, stop
        self.sent, self.stopped = "", False

    def push(self, ids: Sequence[int], *, last: bool) -> str:
        """The next piece, given all ids so far; may be empty."""
        if self.stopped:
            return ""
        text = finished_text(self._tokenizer, ids, self._eos)
        ends = [text.find(stop) for stop in self._stop if stop in text]
        self.stopped = bool(ends)
        if ends:
            text = text[: min(ends)].rstrip()
        elif not last:
            text = text.rstrip("\ufffd").rstrip()
            text = text[: len(text) - max((_begun(text, stop) for stop in self._stop), default=0)].rstrip()
        if not text.startswith(self.sent):
            return ""
        piece = text[len(self.sent) :]
        self.sent = text
        return piece


def _begun(text: str, stop: str) -> int:
    """How many characters at the text's end may be the beginning of `stop`."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if stop.startswith(text[-size:])), 0)


STREAM_TOKENS = 8  # new tokens between two pieces of a streamed answer

Progress = Callable[[str, int, int], None] | None


@dataclasses.dataclass
class Turn:
    """A question and who hears of it.

    piece: called with the text as it comes. cancelled: asked between pieces; once true, nothing more
    is computed for this question. conversation: what was said before (`Tokenizer.chat_ids`). stop: texts
    before which the answer ends. answer or error: what came of it; neither if it was cancelled. stopped:
    whether the answer ends before one of `stop`.
    """

    question: str
    options: Any  # of the system
    piece: Callable[[str], None] = lambda text: None
    cancelled: Callable[[], bool] = lambda: False
    progress: Progress = None
    conversation: Sequence[Message] = ()
    stop: Sequence[str] = ()
    answer: Answer | None = None
    error: Exception | None = None
    stopped: bool = False

    def finish(self, answer: Answer, text: TextStream) -> None:
        """Sets the answer, cut where the text has met one of `stop`."""
        self.stopped = text.stopped
        self.answer = dataclasses.replace(answer, text=text.sent) if text.stopped else answer


class System(Protocol):
    """A loaded model with what answering takes, as `tempo.engine.Tempo` and `xcomp.engine.XComp`."""

    config: Any
    tokenizer: Tokenizer
    model: Any
    dtype: Any
    place: Placement


class OpenVideo:
    """An opened video; `last_answer` is the Answer of the latest question, also after `stream`.

    A system's clip says what may be asked (`options`), reads a prompt (`prefill`) and reports (`result`,
    `inspect`). What `prefill` returns has options, prefilled, sampling, started and compressed
    (time.perf_counter() when asked, and when it was known what the LLM gets to see).
    """

    options: ClassVar[type]  # of one question

    def __init__(self, system: System):
        self.system = system
        self.last_answer: Answer | None = None

    def prefill(
        self,
        question: str,
        options: Any,
        progress: Progress = None,
        conversation: Sequence[Message] = (),
    ) -> Any:
        """Everything up to the LLM's first logits."""
        raise NotImplementedError

    def result(self, asked: Any, ids: np.ndarray, first_token: float) -> Answer:
        """The Answer of these token ids; first_token: time.perf_counter() when the first one was there."""
        raise NotImplementedError

    def inspect(self, question: str, **options: Any) -> Inspection:
        """The numbers between video and answer."""
        raise NotImplementedError

    def writing(self, options: Any) -> dict:
        """Arguments of generate.advance that only this system has."""
        return {}

    def ask(self, question: str, *, progress: Progress = None, **options: Any) -> Answer:
        """Answers a question about the video; options as in the system's `ask`."""
        for _ in self._answer(Turn(question, self.options(**options), progress=progress), every=None):
            pass
        return self.last_answer

    def stream(self, question: str, *, progress: Progress = None, **options: Any) -> Iterator[str]:
        """Yields the answer's text as it comes; the pieces joined are `last_answer.text`."""
        return self._answer(Turn(question, self.options(**options), progress=progress), every=STREAM_TOKENS)

    def answer(self, turns: Sequence[Turn]) -> None:
        """Answers the turns, each as `ask` would up to floating-point rounding; sets their results."""
        for turn in turns:
            try:
                self._answer_turn(turn)
            except Exception as error:  # of this question alone
                turn.error = error

    def _answer_turn(self, turn: Turn) -> None:
        if turn.cancelled():
            return
        for piece in self._answer(turn, every=STREAM_TOKENS):
            turn.piece(piece)
            if turn.cancelled():
                turn.answer = None
                return

    def _answer(self, turn: Turn, every: int | None) -> Iterator[str]:
        """Yields text every `every` new tokens (None: once, at the end); sets turn.answer and last_answer."""
        self.last_answer = None
        options, progress = turn.options, turn.progress
        asked = self.prefill(turn.question, options, progress, turn.conversation)
        system, eos = self.system, self.system.config.eos_ids
        state, pieces = asked.prefilled.generation, TextStream(system.tokenizer, eos, turn.stop)
        first_token, until, last = None, 1, False
        while not last:
            with system.place():
                state = generate.advance(
                    system.model.llm,
                    state,
                    until,
                    asked.sampling,
                    greedy=options.greedy,
                    eos=eos,
                    **self.writing(options),
                )
            ids = np.asarray(state.tokens_BN)[0, : int(state.count)]
            first_token = first_token or time.perf_counter()
            last = bool(np.asarray(state.done_B)[0]) or len(ids) >= options.max_new_tokens
            piece = pieces.push(ids, last=last)
            last = last or pieces.stopped
            if piece:
                yield piece
            if progress:
                progress("generating", len(ids), options.max_new_tokens)
            until = min(options.max_new_tokens, until + (every or options.max_new_tokens))
        turn.finish(self.result(asked, ids, first_token), pieces)
        self.last_answer = turn.answer


def timings(asked: Any, video_seconds: float, first_token: float) -> dict[str, float]:
    """Answer.timings, in seconds, of an answer that is there now."""
    now = time.perf_counter()
    return {
        "video": video_seconds,
        "compress": asked.compressed - asked.started,
        "first_token": first_token - asked.started,
        "answer": now - asked.compressed,
        "total": now - asked.started,
    }


def checked(question: str) -> tuple[str, list[str]]:
    """The question, or the published default for an empty one with a sentence that says so."""
    if not isinstance(question, str):
        raise TempoError(f"The question is of type {type(question).__name__}, but it must be text.")
    question = question.encode("utf-8", "replace").decode()  # lone surrogates are no text
    if question.strip():
        return question, []
    return DEFAULT_QUESTION, [f'The question is empty, so the default one is asked: "{DEFAULT_QUESTION}"']
