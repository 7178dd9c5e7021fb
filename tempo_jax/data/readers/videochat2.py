"""VideoChat2-IT: {"video" or "image", "QA": [{"i": instruction, "q": question, "a": answer}]}."""

from collections.abc import Mapping
from typing import Any

from tempo_jax.data.preparation import BadSample
from tempo_jax.data.readers.turns import each, turn


def takes(record: Mapping[str, Any]) -> bool:
    """Returns whether the record has questions and answers."""
    return record.get("QA") is not None


def turns(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A turn for each question and answer; an instruction stands above its question."""
    return [part for pair in each(record["QA"], "QA", _one) for part in pair["turns"]]


def _one(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not isinstance(value.get("a"), str):
        raise BadSample("malformed conversation", 'one of its "QA" has no answer "a"')
    asked = [value.get(name) or "" for name in ("i", "q")]
    if not all(isinstance(text, str) for text in asked):
        raise BadSample("malformed conversation", 'one of its "QA" has an "i" or "q" that is no text')
    question = "\n".join(text for text in asked if text.strip())
    return {"turns": [turn("human", question), turn("gpt", value["a"])]}
