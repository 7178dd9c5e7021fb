"""Events of a question, from queued to completed or failed, and how the API reports them.

Events are plain values, sent by the service's threads. Progress becomes stages, counts and estimated seconds;
an answer becomes OpenAI's chat completion, with what Tempo knows beyond it under "tempo".
"""

import dataclasses
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from tempo_jax.runtime.results import Answer
from tempo_jax.serve.store import CachedVideo


@dataclasses.dataclass(frozen=True)
class Queued:
    """place: 1 is next. seconds: an estimate until its turn."""

    place: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Started:
    """Its turn has come. reused: the video is open already, else it is being opened now."""

    reused: bool


@dataclasses.dataclass(frozen=True)
class Progress:
    stage: str
    done: int
    total: int


@dataclasses.dataclass(frozen=True)
class Ready:
    """The video is open. reused: it was when the question came."""

    opened: CachedVideo
    reused: bool


@dataclasses.dataclass(frozen=True)
class TextDelta:
    text: str


@dataclasses.dataclass(frozen=True)
class Completed:
    """reused: the video was open already; open_seconds: what opening it took, now or then.

    stopped: the answer ends before one of the texts that were to end it.
    """

    answer: Answer
    reused: bool
    open_seconds: float
    thumbnails: list[bytes]
    batch: int  # questions answered together
    stopped: bool = False


@dataclasses.dataclass(frozen=True)
class Failed:
    error: Exception


Event = Queued | Started | Progress | Ready | TextDelta | Completed | Failed


# Stage of a system -> stage of the API, unit of its counts.
STAGES = {
    "decoding": ("open", "chunks"),
    "encoding frames": ("open", "chunks"),
    "compressing": ("compress", "chunks"),
    "scoring frames": ("compress", "chunks"),
    "generating": ("answer", "tokens"),
}
MIN_REPORT_SECONDS = 0.2  # between two reports


class StageProgress:
    """Formats the progress of one job."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._began, self._first, self._reported_at = 0.0, 0, 0.0

    def of(self, event: Progress) -> dict:
        """A Progress of the API; seconds_left is null at a stage's start and during generation."""
        now = time.monotonic()
        if event.stage != self._stage or event.done < self._first:
            self._stage, self._began, self._first, self._reported_at = event.stage, now, event.done, 0.0
        stage, unit = STAGES.get(event.stage, (event.stage, "steps"))
        completed, remaining = event.done - self._first, event.total - event.done
        seconds = (now - self._began) / completed * remaining if completed and stage != "answer" else None
        return {
            "stage": stage,
            "detail": event.stage,
            "done": event.done,
            "total": event.total,
            "unit": unit,
            "seconds_left": seconds,
        }

    def due(self, event: Progress) -> bool:
        """Whether to report it: not too often, but always the first and last of a stage."""
        now = time.monotonic()
        if (
            event.stage == self._stage
            and event.done < event.total
            and now - self._reported_at < MIN_REPORT_SECONDS
        ):
            return False
        self._reported_at = now
        return True


class ChatCompletionFormatter:
    """The bodies of one answer, whole or as server-sent events."""

    def __init__(self, model: str):
        self._common = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, done: Completed, extras: dict, reason: str) -> dict:
        message = {"role": "assistant", "content": done.answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return {
            **self._common,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage(done),
            "tempo": extras,
        }

    def first(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> bytes:
        return self._chunk({"content": text})

    def last(self, done: Completed, extras: dict, reason: str, include_usage: bool) -> bytes:
        end = self._chunk({}, reason, tempo=extras)
        if include_usage:
            end += server_sent_event(
                {**self._common, "object": "chat.completion.chunk", "choices": [], "usage": usage(done)}
            )
        return end + b"data: [DONE]\n\n"

    def _chunk(self, delta: dict, reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return server_sent_event(
            {**self._common, "object": "chat.completion.chunk", "choices": [choice], **more}
        )


def server_sent_event(body: dict) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def usage(done: Completed) -> dict:
    read, new = (int(done.answer.usage[key]) for key in ("prompt_tokens", "new_tokens"))
    return {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new}


def finish_reason(done: Completed, most: int, eos_ids: Sequence[int]) -> str:
    ids = done.answer.token_ids
    return "length" if len(ids) >= most and ids[-1] not in eos_ids and not done.stopped else "stop"


def answer_extras(done: Completed, warnings: Sequence[str]) -> dict:
    """Segments with relevance and allocation, Tempo's own usage, seconds per stage, and the saving."""
    values = done.answer.to_dict()
    return {
        "segments": values["segments"],
        "usage": values["usage"],
        "timings": values["timings"],
        "token_limits": values["token_limits"],
        "warnings": [*values["warnings"], *warnings],
        "video_reused": done.reused,
        "open_seconds": done.open_seconds,
        "answered_together": done.batch,
    }
