"""LLaVA-style data: records with `id`, `image` or `video`, and `conversations`, to examples.

A file holds a JSON list of records or one record a line. A record names one picture (`image`, a name or
a list of one), one video (`video`, likewise: a file, a .gif, a .npy or a folder of frames) or neither
(text only), all below one media folder.
"""

import codecs
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tempo_jax.data.preparation import BadSample, Settings, Skipped
from tempo_jax.data.records import to_example
from tempo_jax.errors import TempoError
from tempo_jax.video import Source, open_video

MEDIA = ("image", "video")
_MARK = re.compile("<image>|<video>")
# What a video's warnings say when frames are missing; other warnings are no reason to skip it.
_DAMAGE = ("is cut short", "is damaged")
_CHUNK = 8  # frames in memory at a time


@dataclasses.dataclass(frozen=True)
class Entry:
    """One record as found: `content` is a line yet to be parsed, or a value of a parsed list."""

    where: str
    content: Any


def read(path: str | Path) -> list[Entry]:
    """The records of a file, unchecked. TempoError if it cannot be read or has none."""
    path = Path(path)
    try:
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise TempoError(f"{path} cannot be read ({error.strerror}): give a .json or .jsonl file.") from error
    if data.lstrip()[:1] == b"[":
        entries = [Entry(f"record {i}", value) for i, value in enumerate(_list(path, data), start=1)]
    else:
        lines = enumerate(data.split(b"\n"), start=1)
        entries = [Entry(f"line {i}", line) for i, line in lines if line.strip()]
    if not entries:
        raise TempoError(f"{path} holds no records: give LLaVA-style records, as a JSON list or one a line.")
    return entries


def _list(path: Path, data: bytes) -> list:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TempoError(
            f"{path} is no valid JSON ({error}): repair it, or write one record a line, "
            "of which only the broken ones are then left out."
        ) from error


@dataclasses.dataclass(frozen=True)
class Preparer:
    """Entry -> [example] or [Skipped]; can be sent to another process."""

    media: Path
    settings: Settings

    def __call__(self, entry: Entry) -> list[dict | Skipped]:
        sample_id = ""
        try:
            record = _parsed(entry)
            sample_id = str(record.get("id", ""))
            _check_text(sample_id)
            return [self._example(record, sample_id)]
        except BadSample as error:
            reason, message = error.reason, str(error)
        except Exception as error:  # one odd file must not end a run of many hours; it is reported by name
            reason, message = "unexpected error", f"{type(error).__name__}: {error}"
        return [Skipped(entry.where, _printable(sample_id), reason, _printable(message))]

    def _example(self, record: dict, sample_id: str) -> dict[str, Any]:
        kind, name = _medium(record)
        turns = conversation(record.get("conversations"), shows=kind != "text")
        if kind == "text":
            return to_example(sample_id, kind, turns, self.settings.dummy())
        path = media_path(self.media, name)
        try:
            source = self._open(path, kind)
            frames = self.settings.encode(_frames(source), image=kind == "image")
        except TempoError as error:
            raise BadSample(f"unreadable {kind}", str(error)) from error
        _check_whole(source)
        if kind == "image":
            return to_example(sample_id, kind, turns, frames)
        times: dict[str, Any] = {}
        if source.own_times:
            times = {"seconds": source.seconds.tolist()}
        elif source.shift_seconds:
            times = {"start_seconds": source.shift_seconds}
        return to_example(sample_id, kind, turns, frames, source.real_fps, times)

    def _open(self, path: Path, kind: str) -> Source:
        settings = self.settings
        limits = {name: getattr(settings, name) for name in ("fps", "min_frames", "max_frames", "sampling")}
        source = open_video(path, config=settings.video, **limits)
        if source.kind != kind:
            raise TempoError(f"{path} is given as {kind!r} but is of kind {source.kind!r}: name it so.")
        _check_whole(source)
        return source


def _parsed(entry: Entry) -> dict:
    record = entry.content
    if isinstance(record, bytes):
        try:
            record = json.loads(record)
        except (ValueError, RecursionError) as error:
            raise BadSample("broken line", f"it is no valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise BadSample("malformed record", f"it is of type {type(record).__name__}, not an object")
    return record


def _medium(record: dict) -> tuple[str, str]:
    """(kind, name of the file); the name is empty for text."""
    named = [key for key in MEDIA if record.get(key)]
    if len(named) > 1:
        raise BadSample("malformed record", "it names both an image and a video")
    if not named:
        return "text", ""
    name = record[named[0]]
    if isinstance(name, list) and len(name) == 1:
        (name,) = name
    if isinstance(name, list):
        raise BadSample("several media", f"it names {len(name)} of {named[0]!r}, but a sample has one")
    if not isinstance(name, str):
        raise BadSample("malformed record", f"its {named[0]!r} is of type {type(name).__name__}, not a name")
    return named[0], name


def media_path(root: Path, name: str) -> Path:
    """Where a record's file is; BadSample unless it is there and inside `root`, links followed."""
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root.resolve()):
            raise BadSample("media outside its folder", f"{name} is outside the media folder")
        if not path.exists():
            raise BadSample("missing media", f"there is no {name} in the media folder")
    except (OSError, ValueError) as error:
        if isinstance(error, BadSample):
            raise
        raise BadSample("missing media", f"{name!r} cannot be the name of a file ({error})") from error
    return path


def _frames(source: Source) -> Iterator[np.ndarray]:
    for chunk in source.chunks(_CHUNK):
        yield from chunk


def _check_whole(source: Source) -> None:
    for sentence in source.warnings:
        if any(words in sentence for words in _DAMAGE):
            raise BadSample(f"damaged {source.kind}", sentence)


def conversation(turns: Any, shows: bool) -> list[dict[str, str]]:
    """The checked turns, with the mark of what is shown as `<image>⏎` in front of its turn (facts §4.3).

    `shows`: whether there is an image or a video, which exactly one human turn must mark, by <image> or
    <video>. A turn before the first human one is kept; training leaves it out. Raises BadSample.
    """
    if not isinstance(turns, list) or not turns:
        raise BadSample("empty conversation", "its conversations are missing or empty")
    turns = [_turn(turn) for turn in turns]
    first = 1 if turns[0]["from"] in ("system", "gpt") else 0
    for number, turn in enumerate(turns[first:]):
        expected = ("human", "gpt")[number % 2]
        if turn["from"] != expected:
            sentence = f"turn {first + number + 1} is from {turn['from']!r} where {expected!r} is due"
            raise BadSample("malformed conversation", sentence)
    answers = turns[first + 1 :: 2]
    if not answers or not all(turn["value"].strip() for turn in answers):
        raise BadSample(
            "no answer", "the assistant says nothing" + (" in one of its turns" if answers else "")
        )
    _check_marks(turns, int(shows))
    for turn in turns:
        if turn["from"] == "human" and _MARK.search(turn["value"]):
            turn["value"] = "<image>\n" + _MARK.sub("", turn["value"]).strip()
    return turns


def _turn(turn: Any) -> dict[str, str]:
    speaker, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
    if not isinstance(speaker, str) or not isinstance(value, str):
        raise BadSample("malformed conversation", 'a turn is not {"from": name, "value": text}')
    _check_text(value)
    return {"from": speaker, "value": value}


def _check_marks(turns: list[dict[str, str]], expected: int) -> None:
    marked = sum(_marks(turn["value"]) for turn in turns if turn["from"] == "human")
    elsewhere = sum(turn["value"].count("<image>") for turn in turns if turn["from"] != "human")
    if elsewhere:
        raise BadSample("malformed conversation", "an <image> stands in a turn that is not the human's")
    if marked != expected:
        found = f"{marked} <image> or <video> in the human's turns"
        named = "one image or video" if expected else "neither image nor video"
        raise BadSample("marks do not match media", f"there are {found}, but the record names {named}")


def _marks(text: str) -> int:
    """How many visual blocks a turn gets: all marks of one with a <video> become one (facts §4.3)."""
    return 1 if "<video>" in text else text.count("<image>")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadSample("malformed text", f"it holds what is no character ({error.reason})") from error


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
