"""One question and its answer in two keys, or a caption alone, which is asked for without words."""

from collections.abc import Mapping
from typing import Any

from tempo_jax.data.readers.turns import turn

ASKED = ("question", "query", "prompt", "instruction", "problem", "q")
ANSWERED = ("answer", "response", "output", "completion", "solution", "a")
CAPTION = ("caption", "text", "txt", "description")
KEYS = ("question", "answer", "caption")


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((record[name] for name in names if isinstance(record.get(name), str)), None)


def takes(record: Mapping[str, Any]) -> bool:
    """Returns whether the record has both, or a caption."""
    if "conversations" in record or "conversation" in record:  # broken ones are reported as such
        return False
    both = _first(record, ASKED) is not None and _first(record, ANSWERED) is not None
    return both or _first(record, CAPTION) is not None


def turns(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The question, with `input` below it where there is one, and the answer; of a caption no question."""
    asked, answer = _first(record, ASKED), _first(record, ANSWERED)
    if asked is None or answer is None:
        return [turn("human", ""), turn("gpt", _first(record, CAPTION))]
    more = record.get("input")
    asked = f"{asked}\n{more}" if isinstance(more, str) and more.strip() else asked
    return [turn("human", asked), turn("gpt", answer)]
