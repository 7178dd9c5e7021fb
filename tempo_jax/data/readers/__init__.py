"""Readers of data sets on disk: a table, one small file each.

    data = readers.read("mixture.yaml", media=None)
    data.entries[0]; data.sources[0].media

The layout of a file (JSON, parquet, tar, a mixture of others) and the format of a record are independent:
every reader of records works with every file. `auto` decides by the name of a file and the keys of a record.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tempo_jax.data.readers import (
    json_files,
    llava,
    messages,
    mixture,
    pairs,
    parquet,
    sharegpt,
    videochat2,
    webdataset,
)
from tempo_jax.data.readers.record import Entry, Source
from tempo_jax.errors import TempoError
from tempo_jax.utils import paths

AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layout of files: their suffixes, and the function that reads the entries of one."""

    suffixes: tuple[str, ...]
    read: Callable[[Path], list[Entry]]
    what: str  # for --help and docs


@dataclasses.dataclass(frozen=True)
class Shape:
    """A format of records: the keys that identify it, and the function to turns {"from", "value"}."""

    keys: tuple[str, ...]
    takes: Callable[[dict], bool]
    turns: Callable[[dict], list[dict[str, Any]]]
    what: str


# In the order in which they are tried.
SHAPES: dict[str, Shape] = {
    "videochat2": Shape(("QA",), videochat2.takes, videochat2.turns, "VideoChat2-IT: lists of `QA`"),
    "messages": Shape(
        ("messages",), messages.takes, messages.turns, "`messages` with `role` and `content`, text or parts"
    ),
    "llava": Shape(("conversations",), llava.takes, llava.turns, "LLaVA: `conversations`, human and gpt"),
    "sharegpt": Shape(
        ("conversations", "conversation"), sharegpt.takes, sharegpt.turns,
        "ShareGPT and its variants: other names of speakers and of keys",
    ),
    "pairs": Shape(pairs.KEYS, pairs.takes, pairs.turns, "one question and answer, or a caption"),
}  # fmt: skip
LAYOUTS: dict[str, Layout] = {
    "json": Layout((".json", ".jsonl", ".ndjson"), json_files.read, "a list, or a record a line; also .gz"),
    "parquet": Layout((".parquet",), parquet.read, "LLaVA-OneVision: image bytes in the rows"),
    "webdataset": Layout((".tar",), webdataset.read, "tar: files of one key are a sample"),
}
MIXTURE = "mixture"
FORMATS = (AUTO, *SHAPES, *(name for name in LAYOUTS if name != "json"), MIXTURE)


@dataclasses.dataclass(frozen=True)
class Data:
    """The entries to prepare, and the sources that they refer to."""

    entries: list[Entry]
    sources: tuple[Source, ...]


def read(source: str | os.PathLike, media: str | os.PathLike | None = None, form: str = AUTO) -> Data:
    """Reads the entries of a file, without validation.

    Args:
      source: A file, or a folder of parquet, tar or JSON files.
      media: The folder that names of media are relative to; None: that of the source.
      form: A name in FORMATS; AUTO detects the format.

    Returns:
      The entries and their sources.

    Raises:
      TempoError: Nothing can be read, or there are no records.
    """
    where = paths.path("--source", source)
    root = None if media is None else paths.path("--media", media)
    if form not in FORMATS:
        raise TempoError(f"There is no format {form!r}: use one of {', '.join(FORMATS)}.")
    if form == MIXTURE or (form == AUTO and where.suffix.lower() in mixture.SUFFIXES):
        return _mixture(where if paths.remote(where) else where.absolute(), root)
    if paths.remote(where):
        root = root or (where if where.is_dir() else where.parent)
    source = _local(where).absolute()  # links are not resolved; Ray tasks run in another folder
    root = root or (source if source.is_dir() else source.parent)
    root = root if paths.remote(root) else root.absolute()
    if not root.is_dir():
        raise TempoError(f"There is no media folder {root}: give the one that holds images and videos.")
    entries = _entries(source, form)
    return Data(entries, (Source(root, form if form in SHAPES else AUTO),))


def _local(source: paths.AnyPath) -> Path:
    """The file or folder of records itself, or a copy of it, without media."""
    if not paths.remote(source):
        return source
    if source.is_file():
        return paths.fetched(source.parent, lambda name: name == source.name) / source.name
    suffixes = tuple(suffix for row in LAYOUTS.values() for suffix in row.suffixes)
    return paths.fetched(source, lambda name: name.lower().removesuffix(".gz").endswith(suffixes))


def _entries(source: Path, form: str) -> list[Entry]:
    files = _files(source, form)
    entries = []
    for file in files:
        for entry in _layout(file, form).read(file):
            where = f"{file.name}, {entry.where}" if len(files) > 1 else entry.where
            entries.append(dataclasses.replace(entry, where=where))
    if not entries:
        raise TempoError(
            f"{source} holds no records: give records in one of the formats {', '.join(SHAPES)}."
        )
    return entries


def _layout(file: Path, form: str) -> Layout:
    if form in LAYOUTS:
        return LAYOUTS[form]
    name = file.name.lower().removesuffix(".gz")
    return next((row for row in LAYOUTS.values() if name.endswith(row.suffixes)), LAYOUTS["json"])


def _files(source: Path, form: str) -> list[Path]:
    if not source.is_dir():
        return [source]
    suffixes = (
        LAYOUTS[form].suffixes if form in LAYOUTS else tuple(s for x in LAYOUTS.values() for s in x.suffixes)
    )
    files = sorted(
        path for path in source.rglob("*") if path.name.lower().removesuffix(".gz").endswith(suffixes)
    )
    packed = [path for path in files if path.suffix.lower() in (*parquet.SUFFIXES, ".tar")]
    if not files:
        raise TempoError(f"{source} is a folder without {', '.join(suffixes)} files: give a file of records.")
    return packed or files


def _mixture(source: paths.AnyPath, media: paths.AnyPath | None) -> Data:
    entries, sources = [], []
    for part in mixture.read(source, media):
        if part.form == MIXTURE or part.file.suffix.lower() in mixture.SUFFIXES:
            raise TempoError(f"{source} names the mixture {part.file}: name its sources instead.")
        data = read(part.file, part.media, part.form)
        number = len(sources)
        sources.append(dataclasses.replace(data.sources[0], fps=part.fps))
        for entry in part.choose(data.entries):
            entries.append(dataclasses.replace(entry, where=f"{part.name}, {entry.where}", source=number))
    if not entries:
        raise TempoError(f"{source} chooses no records: check its sampling_strategy and weights.")
    return Data(entries, tuple(sources))


def turns_of(record: dict, form: str = AUTO) -> list[dict[str, Any]]:
    """Returns the turns of a record: {"from": "human", "gpt" or "system", "value": text or parts}.

    Raises:
      BadSample: No reader knows the format; the message names the keys that are missing and present.
    """
    from tempo_jax.data.preparation import BadSample

    shapes = [SHAPES[form]] if form in SHAPES else list(SHAPES.values())
    for shape in shapes:
        if shape.takes(record):
            return shape.turns(record)
    lacking = dict.fromkeys(key for shape in shapes for key in shape.keys)
    has = ", ".join(map(repr, record)) or "no keys"
    raise BadSample(
        "no conversation", f"it has none of the keys {', '.join(map(repr, lacking))}; it has {has}"
    )
