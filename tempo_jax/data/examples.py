"""Converts entries of a data set to examples: finds, decodes, resizes and encodes the media of a record."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tempo_jax.data import media_names, readers, resize
from tempo_jax.data.preparation import BadSample, Settings, Skipped
from tempo_jax.data.readers import json_files
from tempo_jax.data.readers.clips import clip_of
from tempo_jax.data.readers.record import Entry, Medium, id_of, media_of
from tempo_jax.data.readers.record import Source as Origin
from tempo_jax.data.readers.turns import check_text, conversation
from tempo_jax.data.records import to_example
from tempo_jax.errors import TempoError, TryAgain
from tempo_jax.utils import gcs
from tempo_jax.utils import paths as places
from tempo_jax.video import Source, open_video

# Phrases in warnings about missing frames; other warnings are no reason to skip a video.
_DAMAGE = ("is cut short", "is damaged")
_CHUNK = 8  # frames in memory at the same time
_SIGNATURES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}


@dataclasses.dataclass(frozen=True)
class Preparer:
    """Converts an entry to [example] or [Skipped]; picklable."""

    sources: tuple[Origin, ...]
    settings: Settings

    def __call__(self, entry: Entry) -> list[dict | Skipped]:
        sample_id = ""
        try:
            content = entry.content.load() if hasattr(entry.content, "load") else entry.content
            record = json_files.parsed(content)
            sample_id = id_of(record)
            check_text(sample_id)
            return [self._example(record, sample_id, self.sources[entry.source])]
        except BadSample as error:
            reason, message = error.reason, str(error)
        except TryAgain:
            raise  # a storage that does not answer is not the fault of the sample
        except Exception as error:  # one odd file must not end a run of many hours; it is reported
            reason, message = "unexpected error", f"{type(error).__name__}: {error}"
        return [Skipped(entry.where, _to_printable(sample_id), reason, _to_printable(message))]

    def _example(self, record: dict, sample_id: str, origin: Origin) -> dict[str, Any]:
        turns = readers.turns_of(record, origin.form)
        media = media_of(record, turns)
        turns = conversation(turns, shows=media.kind != "text", record=record)
        if media.kind == "text":
            return to_example(sample_id, "text", turns, self.settings.dummy())
        with contextlib.ExitStack() as stack:
            paths = _paths(media.files, origin.media, stack)
            if media.kind == "pictures":
                return to_example(sample_id, "video", turns, *self._pictures(paths))
            if media.kind == "image":
                source = self._open(paths[0], "image", origin)
                frames = self._encoded(source)
                return to_example(sample_id, "image", turns, frames)
            shown = paths if media.kind == "frames" else paths[0]
            source = self._open(shown, "video", origin, clip_of(record))
            frames = self._encoded(source)
        times: dict[str, Any] = {}
        if source.own_times:
            times = {"seconds": source.seconds.tolist()}
        elif source.shift_seconds:
            times = {"start_seconds": source.shift_seconds}
        return to_example(sample_id, "video", turns, frames, source.real_fps, times)

    def _open(self, path: Any, kind: str, origin: Origin, clip: Any = None) -> Source:
        settings = self.settings
        limits = {name: getattr(settings, name) for name in ("fps", "min_frames", "max_frames", "sampling")}
        rate = origin.fps or settings.source_fps
        with _unreadable(kind):
            source = open_video(path, config=settings.video, clip=clip, source_fps=rate, **limits)
            if source.kind != kind:
                raise TempoError(f"{path} is given as {kind!r} but is of kind {source.kind!r}: name it so.")
        _check_whole(source)
        return source

    def _encoded(self, source: Source) -> list[bytes]:
        with _unreadable(source.kind):
            frames = self.settings.encode(_frames(source), image=source.kind == "image")
        _check_whole(source)
        return frames

    def _pictures(self, paths: Sequence[Path]) -> tuple[list[bytes], float, dict[str, Any]]:
        """Encodes several images as frames of a video, all of the size of the first, at `fps`."""
        settings, size, frames = self.settings, None, []
        for path in paths[: settings.max_frames]:
            with _unreadable("image"):
                source = open_video(path, config=settings.video)
                if source.kind != "image":
                    raise TempoError(f"{path} is one of several images, but is of kind {source.kind!r}.")
                (pixels,) = next(source.chunks(1))
                frame = settings.frame(pixels) if size is None else resize.to_size(pixels, size)
            size = frame.shape[:2]
            frames.append(settings.encoding.encode(frame))
        return frames, settings.fps, {"pictures": True}


@contextlib.contextmanager
def _unreadable(kind: str) -> Iterator[None]:
    try:
        yield
    except TempoError as error:
        raise BadSample(f"unreadable {kind}", str(error)) from error


def _paths(files: Sequence[Medium], root: Path, stack: contextlib.ExitStack) -> list[Path]:
    """Returns paths of files; those given as bytes are written to a temporary folder of `stack`."""
    folder = None
    paths = []
    for number, medium in enumerate(files):
        if medium.data is None and not places.remote(root):
            paths.append(media_path(root, medium.name))
            continue
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prepare-")))
        if medium.data is None:
            paths.append(_fetched(root, medium.name, folder / f"{number}"))
            continue
        ending = media_names.ending(medium.name) or _ending_of(medium.data)
        path = folder / f"{number}{ending}"
        path.write_bytes(medium.data)
        paths.append(path)
    return paths


def _fetched(root: places.AnyPath, name: str, folder: Path) -> Path:
    """A copy of a file in gs://, or of a folder of frames; BadSample unless it is there and inside `root`."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise BadSample("media outside its folder", f"{name} is outside the media folder")
    found = places.files(root / name)  # of a folder; nothing of a file
    if found:
        gcs.fetch(root / name, folder / parts.name)
        return folder / parts.name
    where = root / name
    if not where.is_file() and not media_names.ending(name):
        endings = (where.with_name(where.name + ending) for ending in media_names.MEDIA)
        where = next((path for path in endings if path.is_file()), where)
    if not where.is_file():
        raise BadSample("missing media", f"there is no {name} in the media folder")
    folder.mkdir()
    with gcs.report_errors(str(where)):
        gcs.filesystem().get_file(os.fspath(where), str(folder / where.name))
    return folder / where.name


def _ending_of(data: bytes) -> str:
    return next((ending for head, ending in _SIGNATURES.items() if data.startswith(head)), ".mp4")


def media_path(root: Path, name: str) -> Path:
    """Returns the path of a record's file; raises BadSample unless it exists inside `root`, links followed.

    A name without suffix, such as an id, matches any media file.
    """
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root.resolve()):
            raise BadSample("media outside its folder", f"{name} is outside the media folder")
        if not path.exists() and not media_names.ending(name):
            endings = (path.with_name(path.name + ending) for ending in media_names.MEDIA)
            path = next((found for found in endings if found.exists()), path)
        if not path.exists():
            raise BadSample("missing media", f"there is no {name} in the media folder")
        if not path.resolve().is_relative_to(root.resolve()):
            raise BadSample("media outside its folder", f"{name} is outside the media folder")
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


def _to_printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
