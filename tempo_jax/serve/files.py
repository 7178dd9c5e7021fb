"""Files of this machine that a request may name, and how they are served to browsers.

Named may be videos and images in folders allowed at the start. They are served with types by content, byte
ranges, and a policy against scripts.
"""

import dataclasses
import hashlib
import json
import os
import re
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from tempo_jax.serve.errors import ApiError
from tempo_jax.serve.store import VideoFile, video_file
from tempo_jax.serve.uploads import printable
from tempo_jax.video.images import SUFFIXES

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),
    *(".ts", ".mpg", ".mpeg", ".flv", ".ogv", ".gif"),
)
MOST_LISTED = 10_000
MOST_QUESTIONS = 6  # of a video
LISTED_SECONDS = 5.0  # a listing is remembered
NO_FOLDERS = "This server reads no local files: upload the video, or start it with --folder."


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file of the library. name: unique, and text; id: the same at every start of the server."""

    id: str
    name: str
    path: Path
    size: int
    modified: int  # seconds since 1970
    questions: tuple[str, ...]

    @property
    def kind(self) -> str:
        return "image" if is_image(self.name) else "video"

    def video(self) -> VideoFile:
        return video_file(self.path, self.name)


def is_image(name: str) -> bool:
    suffix = Path(name).suffix.lower()
    return suffix in SUFFIXES and suffix not in VIDEO_SUFFIXES


class MediaFolders:
    """Videos and images in folders that were allowed when the server was started. Thread-safe."""

    def __init__(self, folders: Iterable[Path]):
        self.folders = [folder.resolve() for folder in folders]
        self._lock = threading.Lock()
        self._entries: tuple[float, list[Entry]] = (-LISTED_SECONDS, [])

    def find(self, text: str) -> VideoFile:
        """The file of a path (absolute, or relative to a folder), listed name or file: URI; ApiError 4xx.

        Links are followed before the check, so none leads outside. What lies outside is answered
        alike whether it exists or not.
        """
        if text.startswith("file:"):
            text = _path_of(text)
        if "\0" in text or not text:
            raise ApiError(400, "The path of the video is empty or no path: give a file's name.", param="url")
        matches: dict[Path, str] = {}
        for folder in self.folders:
            try:
                path = (folder / text).resolve()
                if path.is_relative_to(folder) and path.is_file():
                    matches.setdefault(path, printable(path.relative_to(folder).as_posix()))
            except (OSError, RuntimeError, ValueError):  # names too long, loops of links
                continue
        if len(matches) > 1:
            names = [entry.name for entry in self.entries() if entry.path in matches]
            raise ApiError(
                400,
                f"There is a file {text[:200]!r} in {len(matches)} folders: write {' or '.join(names[:4])}.",
                "ambiguous_path",
                "url",
            )
        if matches:
            return video_file(*matches.popitem())
        listed = [entry for entry in self.entries() if entry.name == text]  # a name with its folder's
        if listed:
            return listed[0].video()
        if not self.folders:
            raise ApiError(403, NO_FOLDERS, "forbidden_path", "url")
        raise ApiError(
            403,
            f"The folders this server may read have no file {text[:200]!r}: check the path, or upload it.",
            "forbidden_path",
            "url",
        )

    def get(self, identity: str) -> Entry:
        """ApiError 404 for an id that none has."""
        for entry in self.entries():
            if entry.id == identity:
                return entry
        raise ApiError(404, "There is no such video (any more): choose another one.", "video_not_found")

    def names(self) -> list[str]:
        return [entry.name for entry in self.entries()]

    def entries(self) -> list[Entry]:
        """The files by folder and name, at most MOST_LISTED."""
        with self._lock:
            made, entries = self._entries
            if time.monotonic() - made > LISTED_SECONDS:
                entries = self._list()
                self._entries = (time.monotonic(), entries)
            return entries

    def _list(self) -> list[Entry]:
        numbered_paths = [
            (number, path)
            for number, folder in enumerate(self.folders)
            for path in _pictures(folder)
        ][:MOST_LISTED]  # fmt: skip
        plain = [
            printable(path.relative_to(self.folders[number]).as_posix()) for number, path in numbered_paths
        ]
        labels, times = self._labels(), Counter(plain)
        questions = [_questions(folder) for folder in self.folders]
        entries = []
        for (number, path), name in zip(numbered_paths, plain, strict=True):
            state = path.stat()
            relative = path.relative_to(self.folders[number]).as_posix()
            entries.append(
                Entry(
                    id="video-" + hashlib.sha256(os.fsencode(path)).hexdigest()[:24],
                    name=name if times[name] == 1 else f"{labels[number]}/{name}",
                    path=path,
                    size=state.st_size,
                    modified=int(state.st_mtime),
                    questions=tuple(questions[number].get(relative, ())),
                )
            )
        return entries

    def _labels(self) -> list[str]:
        """Labels of the folders, for files whose names are not unique."""
        names = [printable(folder.name) for folder in self.folders]
        times = Counter(names)
        return [name if times[name] == 1 else f"{name}-{number}" for number, name in enumerate(names, 1)]


def _pictures(folder: Path) -> Iterator[Path]:
    """Videos and images below the folder, sorted; none that is hidden or that a link leads outside to."""
    for at, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(names):
            path = Path(at, name)
            if name.startswith(".") or path.suffix.lower() not in (*VIDEO_SUFFIXES, *SUFFIXES):
                continue
            try:
                if path.resolve().is_relative_to(folder) and path.is_file():
                    yield path
            except (OSError, RuntimeError):
                continue


def _questions(folder: Path) -> dict[str, list[str]]:
    """Questions of a questions.jsonl (minireel's) in a folder, by the video's name."""
    questions: dict[str, list[str]] = {}
    try:
        lines = (folder / "questions.jsonl").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return questions
    for line in lines:
        try:
            row = json.loads(line)
            texts = questions.setdefault(row["video"], [])
            if len(texts) < MOST_QUESTIONS:
                texts.append(row["conversations"][0]["value"].removeprefix("<video>\n"))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            continue
    return questions


def _path_of(uri: str) -> str:
    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError as error:
        raise ApiError(400, "The file: URI is none: write file:///path/of/the/video.", param="url") from error
    return urllib.parse.unquote(parts.path)


HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, no-cache",
}
# (offset, first bytes, type); the first that fits. SVG, which can run scripts, is not among them.
SIGNATURES = (
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypavis", "image/avif"),
    (4, b"ftypheic", None),
    (4, b"ftypqt", "video/quicktime"),
    (4, b"ftyp", "video/mp4"),
    *((4, box, "video/quicktime") for box in (b"moov", b"mdat", b"wide", b"free", b"skip")),
    (0, b"OggS", "video/ogg"),
    (8, b"AVI ", "video/x-msvideo"),
    (8, b"WEBP", "image/webp"),
    (0, b"FLV\x01", "video/x-flv"),
    (0, b"\x00\x00\x01\xba", "video/mpeg"),
    (0, b"\x00\x00\x01\xb3", "video/mpeg"),
    (188, b"\x47", "video/mp2t"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n", "image/png"),
    (0, b"GIF8", "image/gif"),
    (0, b"BM", "image/bmp"),
)
EBML = b"\x1a\x45\xdf\xa3"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def media_type(path: Path) -> str | None:
    """The type by the file's first bytes, whatever its name; None for what no browser is given."""
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError:
        return None
    if head.startswith(EBML):
        return "video/webm" if b"webm" in head else "video/x-matroska"
    for offset, magic, kind in SIGNATURES:
        if head[offset : offset + len(magic)] == magic:
            return kind
    return None


def respond(request: Request, path: Path, name: str) -> Response:
    """The file, or the range of it that is asked for; ApiError 404 and 416."""
    kind = media_type(path)
    if kind is None:
        raise ApiError(
            404, "This file is nothing that a browser can show: ask about it all the same.", "no_media"
        )
    _check_range(request, path.stat().st_size)
    return FileResponse(
        path,
        media_type=kind,
        filename=name.replace("/", "_"),
        content_disposition_type="inline",
        headers=HEADERS,
    )


def _check_range(request: Request, size: int) -> None:
    """Leaves a header that can be answered or, as is allowed, none."""
    header = request.headers.get("range")
    if header is None:
        return
    match = _RANGE.fullmatch(header.replace(" ", ""))
    start, end = match.groups() if match else ("", "")
    backwards = start and end and int(end) < int(start)
    if not (start or end) or backwards:  # several ranges, other units or nothing that makes sense
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
    elif (start and int(start) >= size) or (not start and int(end) == 0) or not size:
        raise ApiError(
            416,
            f"The file has {size} bytes and nothing of the range asked for.",
            "range_not_satisfiable",
            headers={"Content-Range": f"bytes */{size}"},
        )
