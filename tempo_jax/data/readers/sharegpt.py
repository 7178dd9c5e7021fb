"""ShareGPT's variants: `conversation` for `conversations`, turns by `role`, `text` or as {"human", "gpt"}."""

from collections.abc import Mapping
from typing import Any

from tempo_jax.data.preparation import BadSample
from tempo_jax.data.readers.turns import SPEAKERS, each, turn

LISTS = ("conversations", "conversation", "dialog", "dialogue")
WHO, SAID = ("from", "role", "speaker", "user"), ("value", "content", "text", "message")


def takes(record: Mapping[str, Any]) -> bool:
    """Returns whether the record has a list of turns under one of the names."""
    return any(record.get(name) is not None for name in LISTS)


def turns(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Its turns, a system prompt of its own first."""
    name = next(name for name in LISTS if record.get(name) is not None)
    found = [part for value in each(record[name], name, _one) for part in value["turns"]]
    system = record.get("system")
    return [turn("system", system), *found] if isinstance(system, str) and system.strip() else found


def _one(value: Any) -> dict[str, Any]:
    """One turn, or a question and its answer in one object."""
    if isinstance(value, list | tuple) and len(value) == 2:  # [question, answer]
        return {"turns": [turn("human", value[0]), turn("gpt", value[1])]}
    if isinstance(value, Mapping):
        who = next((value[key] for key in WHO if isinstance(value.get(key), str)), None)
        said = next((value[key] for key in SAID if isinstance(value.get(key), str)), None)
        if who is not None and said is not None:
            return {"turns": [turn(who, said)]}
        named = [(name, text) for name, text in value.items() if str(name).lower() in SPEAKERS]
        if named and all(isinstance(text, str) for _, text in named):
            return {"turns": [turn(name, text) for name, text in named]}
    raise BadSample("malformed conversation", f"a turn has neither speaker nor words: it is {_keys(value)}")


def _keys(value: Any) -> str:
    return (
        f"an object with {', '.join(map(repr, value))}"
        if isinstance(value, Mapping)
        else type(value).__name__
    )
