"""Entries of data sets, and the media that a record refers to."""

import base64
import binascii
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from tempo_jax.data import media_names
from tempo_jax.data.preparation import BadSample

IMAGE_KEYS = ("image", "images", "image_path", "img", "image_file", "jpg", "png")
VIDEO_KEYS = ("video", "videos", "video_path", "video_file", "mp4")
FRAME_KEYS = ("frames", "frame_paths", "video_frames")
ID_KEYS = ("id", "uid", "question_id", "sample_id", "__key__", "idx")


class Stored(Protocol):
    """Content that is loaded on demand: rows of a parquet file, members of a tar."""

    def load(self) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Entry:
    """One unparsed record; `content` is a line, a value or Stored, and `source` the index of its source."""

    where: str
    content: Any
    source: int = 0


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the media of entries are, and how their records are read.

    Attributes:
      media: Folder of the media.
      form: Format of the records.
      fps: Frame rate of folders and lists of frames; None: as the command says.
    """

    media: Path
    form: str = "auto"
    fps: float | None = None


@dataclasses.dataclass(frozen=True)
class Medium:
    """One file: its name below the media folder, or its content with a name."""

    name: str
    data: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Media:
    """The media of a record; `kind` is text, image, video, frames (of one video) or pictures."""

    kind: str
    files: tuple[Medium, ...] = ()


def media_of(record: Mapping[str, Any], turns: list[dict[str, Any]]) -> Media:
    """Returns the media that a record names by its keys or in its turns; raises BadSample."""
    images = [medium for key in IMAGE_KEYS for medium in _all(record, key)]
    videos = [medium for key in VIDEO_KEYS for medium in _all(record, key)]
    frames = [medium for key in FRAME_KEYS for medium in _all(record, key)]
    for turn in turns:
        images += [_medium(part, "image") for part in turn.get("images", ())]
        videos += [_medium(part, "video") for part in turn.get("videos", ())]
    named = [name for name, found in (("image", images), ("video", videos), ("frames", frames)) if found]
    if "image" in named and "video" in named:
        raise BadSample("malformed record", "it names both an image and a video")
    if frames and not videos:
        return Media("frames" if len(frames) > 1 else "image", tuple(frames))
    if len(videos) > 1:
        if not all(media_names.ending(medium.name) in media_names.IMAGES for medium in videos):
            raise BadSample("several media", f"it names {len(videos)} videos, but a sample has one")
        return Media("frames", tuple(videos))
    if videos:
        return Media("video", tuple(videos))
    if images:
        return Media("image" if len(images) == 1 else "pictures", tuple(images))
    return Media("text")


def _all(record: Mapping[str, Any], key: str) -> Iterator[Medium]:
    value = record.get(key)
    if value is None or value == "" or value == []:
        return
    for one in value if isinstance(value, list | tuple) else (value,):
        yield _medium(one, key)


def _medium(value: Any, key: str) -> Medium:
    """Reads a name, bytes, or an object with one of them, as in Hugging Face data sets."""
    type_name = type(value).__name__
    if isinstance(value, Mapping):
        url = value.get("url", value.get("path", value.get("file_name")))
        if value.get("bytes"):
            return Medium(url if isinstance(url, str) and url else key, bytes(value["bytes"]))
        value = url
    if isinstance(value, bytes):
        return Medium(key, value)
    if isinstance(value, str) and value.startswith("data:"):
        return Medium(key, _of_uri(value))
    if not isinstance(value, str) or not value:
        raise BadSample("malformed record", f"its {key!r} is of type {type_name}, not a name")
    return Medium(value.removeprefix("file://"))


def _of_uri(uri: str) -> bytes:
    head, _, body = uri.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError("no base64")
        return base64.b64decode(body, validate=True)
    except (ValueError, binascii.Error) as error:
        raise BadSample("malformed record", f"it holds a data: URI that is broken ({error})") from error


def id_of(record: Mapping[str, Any]) -> str:
    """Returns the id of a record, "" where it has none."""
    return next((str(record[key]) for key in ID_KEYS if record.get(key) is not None), "")
