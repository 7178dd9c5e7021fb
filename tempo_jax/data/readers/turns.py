"""Normalizes conversations: turns in order, one visual mark (docs/reference/tempo.md#labels)."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tempo_jax.data.preparation import BadSample

SPEAKERS = {
    **dict.fromkeys(("human", "user", "question", "prompter"), "human"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot", "chatgpt", "answer", "bard", "bing"), "gpt"),
    **dict.fromkeys(("system", "developer"), "system"),
}
MARKS = ("<image>", "<video>", "<ImageHere>", "<VideoHere>", "<image_placeholder>", "<|image|>", "<|video|>")
MARK = re.compile("|".join(map(re.escape, MARKS)))
MARKED = "<image>\n"


def turn(speaker: Any, value: Any) -> dict[str, Any]:
    """One turn of any reader's; the speaker by all its names. Raises BadSample."""
    if not isinstance(speaker, str) or not isinstance(value, str):
        raise BadSample("malformed conversation", 'a turn is not {"from": name, "value": text}')
    known = SPEAKERS.get(speaker.strip().lower())
    if known is None:
        raise BadSample(
            "malformed conversation", f"a turn is from {speaker!r}: known are {', '.join(SPEAKERS)}"
        )
    return {"from": known, "value": value}


def each(values: Any, key: str, convert: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """The turns of a list under `key`; BadSample where it is none."""
    if not isinstance(values, list | tuple):
        raise BadSample(
            "malformed conversation", f"its {key!r} is of type {type(values).__name__}, not a list"
        )
    return [convert(value) for value in values]


def conversation(
    turns: Sequence[dict[str, Any]], shows: bool, record: Mapping[str, Any] | None = None
) -> list[dict[str, str]]:
    """The checked turns, with the mark of what is shown as `<image>⏎` in front of one human turn.

    A turn before the first human one is kept; training leaves it out.

    Args:
      turns: {"from": human, gpt or system, "value": text}.
      shows: whether there is an image or a video. It belongs to the first human turn that marks it, or to the
        first of all where none does; other marks are taken out.
      record: what the turns are of, whose keys a sentence names.

    Returns:
      New turns.

    Raises:
      BadSample: there is nothing to learn, turns are out of order, or marked is what is not there.
    """
    if not turns:
        raise BadSample("empty conversation", "its conversation is empty")
    turns = [{"from": one["from"], "value": one["value"]} for one in turns]
    for one in turns:
        check_text(one["value"])
    first = 1 if turns[0]["from"] in ("system", "gpt") else 0
    for number, one in enumerate(turns[first:]):
        expected = ("human", "gpt")[number % 2]
        if one["from"] != expected:
            sentence = f"turn {first + number + 1} is from {one['from']!r} where {expected!r} is due"
            raise BadSample("malformed conversation", sentence)
    answers = turns[first + 1 :: 2]
    if not answers or not all(one["value"].strip() for one in answers):
        raise BadSample(
            "no answer", "the assistant says nothing" + (" in one of its turns" if answers else "")
        )
    _mark(turns, shows, record or {})
    return turns


def _mark(turns: list[dict[str, str]], shows: bool, record: Mapping[str, Any]) -> None:
    human = [one for one in turns if one["from"] == "human"]
    marked = [one for one in human if MARK.search(one["value"])]
    if any("<image>" in one["value"] for one in turns if one["from"] != "human"):
        raise BadSample("malformed conversation", "an <image> stands in a turn that is not the human's")
    if marked and not shows:
        found = MARK.search(marked[0]["value"])[0]
        has = f"; it has {', '.join(map(repr, record))}" if record else ""
        raise BadSample(
            "marks do not match media", f"a turn has {found}, but the record has no 'image' or 'video'{has}"
        )
    for one in marked:
        one["value"] = MARK.sub("", one["value"]).strip()
    if shows:
        chosen = (marked or human)[0]
        chosen["value"] = MARKED + chosen["value"].strip()


def check_text(text: str) -> None:
    """BadSample for what no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadSample("malformed text", f"it holds what is no character ({error.reason})") from error
