"""Which files of this machine a request may name: videos and images in folders allowed at the start."""

import dataclasses
import hashlib
import json
import os
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

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
