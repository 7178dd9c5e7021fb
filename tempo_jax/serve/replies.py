"""Answers in OpenAI's chat-completion format, with what Tempo knows beyond it under "tempo"."""

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from tempo_jax.serve.events import Completed


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
            end += event(
                {**self._common, "object": "chat.completion.chunk", "choices": [], "usage": usage(done)}
            )
        return end + b"data: [DONE]\n\n"

    def _chunk(self, delta: dict, reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return event({**self._common, "object": "chat.completion.chunk", "choices": [choice], **more})


def event(body: dict) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def usage(done: Completed) -> dict:
    read, new = (int(done.answer.usage[key]) for key in ("prompt_tokens", "new_tokens"))
    return {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new}


def finish_reason(done: Completed, most: int, eos_ids: Sequence[int]) -> str:
    ids = done.answer.token_ids
    return "length" if len(ids) >= most and ids[-1] not in eos_ids and not done.stopped else "stop"


def extras(done: Completed, warnings: Sequence[str]) -> dict:
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
