"""LLaVA: {"id", "image" or "video", "conversations": [{"from": "human" or "gpt", "value"}]}."""

from collections.abc import Mapping
from typing import Any

from tempo_jax.data.preparation import BadSample
from tempo_jax.data.readers.turns import each, turn


def takes(record: Mapping[str, Any]) -> bool:
    """Returns whether the record has this format; errors about an empty list refer to LLaVA."""
    found = record.get("conversations")
    return isinstance(found, list) and all(isinstance(one, Mapping) and "from" in one for one in found)


def turns(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Its turns."""
    return each(record["conversations"], "conversations", one)


def one(value: Any) -> dict[str, Any]:
    """A turn {"from", "value"}."""
    if not isinstance(value, Mapping):
        raise BadSample("malformed conversation", 'a turn is not {"from": name, "value": text}')
    return turn(value.get("from"), value.get("value"))
