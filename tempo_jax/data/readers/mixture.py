"""Mixtures: a YAML file that names sources, the number of samples of each, and their media folders.

    datasets:
      - json_path: annotations/a.json       # or path, annotation, data_path, source
        data_root: media/a                  # or media, root, image_folder, video_folder
        sampling_strategy: first:10%        # all, first:N, end:N, random:N; N a number or a share
        weight: 2.0                         # or repeat_time: how often each is taken

As LLaVA and VideoChat-Flash write them; also a mapping of names to such rows, as InternVL does. The file,
its sources and their media may each be in gs://.
"""

import dataclasses
import math
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tempo_jax.data.readers.record import Entry
from tempo_jax.data.subset import SLICE_SEED
from tempo_jax.errors import TempoError
from tempo_jax.utils import paths
from tempo_jax.utils.paths import AnyPath

SUFFIXES = (".yaml", ".yml")
FILE = ("json_path", "path", "annotation", "data_path", "source", "json", "file")
ROOT = ("data_root", "media", "root", "image_folder", "video_folder", "media_dir", "media_root")
WEIGHT = ("weight", "repeat_time", "ratio", "num_repeats")
STRATEGY = re.compile(r"(all|first|end|random|first2)(?::(\d+(?:\.\d+)?)(%?))?")
SEED = 42
# first2 is the second slice (docs/reference/xcomp.md#tuning-recipe).
SHUFFLED = {"random": SEED, "first2": SLICE_SEED}


@dataclasses.dataclass(frozen=True)
class Part:
    """One source; `strategy` selects records, see STRATEGY, and `weight` repeats them."""

    name: str
    file: AnyPath
    media: AnyPath | None
    form: str
    fps: float | None
    strategy: str
    weight: float

    def choose(self, entries: Sequence[Entry]) -> list[Entry]:
        """Selects entries, the same every time."""
        kind, number, percent = STRATEGY.fullmatch(self.strategy).groups()
        entries = list(entries)
        if kind != "all":
            count = math.ceil(len(entries) * float(number) / 100) if percent else int(float(number))
            if kind in SHUFFLED:
                random.Random(SHUFFLED[kind]).shuffle(entries)
            start = {"end": max(0, len(entries) - count), "first2": count}.get(kind, 0)
            entries = entries[start : start + count]
        whole, rest = divmod(self.weight, 1)
        more = random.Random(SEED).sample(entries, round(rest * len(entries)))
        return entries * int(whole) + more


def read(path: AnyPath, media: AnyPath | None) -> Iterator[Part]:
    """Yields the sources, with paths relative to the file or `media`; raises TempoError if invalid."""
    import yaml

    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise TempoError(
            f"{path} cannot be read ({error.strerror or 'it is missing'}): give a .yaml file."
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TempoError(f"{path} is no valid YAML ({reason}): repair it.") from error
    if isinstance(rows, Mapping) and "datasets" in rows:
        rows = rows["datasets"]
    if isinstance(rows, Mapping):
        rows = [{"name": name, **row} if isinstance(row, Mapping) else row for name, row in rows.items()]
    if not isinstance(rows, list) or not rows:
        raise TempoError(f"{path} names no sources: give a list of them under datasets.")
    for number, row in enumerate(rows, start=1):
        yield _part(path, number, row, media)


def _part(path: AnyPath, number: int, row: Any, media: AnyPath | None) -> Part:
    where = f"{path}, source {number}"
    if not isinstance(row, Mapping):
        raise TempoError(f"{where} is {row!r}: give its json_path, data_root and the like.")
    file = next((row[key] for key in FILE if isinstance(row.get(key), str)), None)
    if file is None:
        raise TempoError(
            f"{where} has none of the keys {', '.join(FILE)}; it has {', '.join(map(str, row))}."
        )
    strategy, weight, fps = str(row.get("sampling_strategy", "all")), 1.0, row.get("fps")
    match = STRATEGY.fullmatch(strategy)
    if match is None or (match[1] != "all") != (match[2] is not None):
        raise TempoError(
            f"{where}: its sampling_strategy is {strategy!r}: use all, first:N, end:N or random:N, N%."
        )
    try:
        weight = float(next((row[key] for key in WEIGHT if row.get(key) is not None), 1.0))
        fps = None if fps is None else float(fps)
    except (TypeError, ValueError) as error:
        raise TempoError(f"{where}: its weight or fps is no number ({error}).") from error
    if not 0 < weight < math.inf or not (fps is None or 0 < fps < math.inf):
        raise TempoError(f"{where}: its weight or fps is not above 0: leave the source out.")
    root = next((row[key] for key in ROOT if isinstance(row.get(key), str)), None)
    folder = path.parent if media is None else media
    source = _below(path.parent, file)
    media_folder = _joined(folder, root) if root is not None else media
    return Part(
        str(row.get("name", file)),
        source,
        media_folder,
        str(row.get("format", "auto")),
        fps,
        strategy,
        weight,
    )


def _below(folder: AnyPath, name: str) -> AnyPath:
    """Resolves a name relative to the folder or, on a disk, to the working directory."""
    beside = _joined(folder, name)
    if paths.remote(folder) or beside.exists():
        return beside
    return Path(name) if Path(name).exists() else beside


def _joined(folder: AnyPath, name: str) -> AnyPath:
    """A name below a folder, unless it is a URL or a whole path itself."""
    if paths.url(name) or os.path.isabs(name):
        return paths.path("a mixture's source", name)
    return folder / name
