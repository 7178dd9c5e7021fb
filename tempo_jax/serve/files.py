"""Which files a request may name: those in allowed folders, and uploads."""

import base64
import binascii
import dataclasses
import hashlib
import secrets
import shutil
import tempfile
import threading
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from tempo_jax.serve.errors import ApiError
from tempo_jax.serve.limits import Limits
from tempo_jax.serve.store import VideoFile
from tempo_jax.video.images import SUFFIXES

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),
    *(".ts", ".mpg", ".mpeg", ".flv", ".ogv", ".gif"),
)
MOST_LISTED = 500
NO_FOLDERS = "This server reads no local files: upload the video, or start it with --folder."
NOT_BASE64 = "The data: URI is no intact base64: encode the file again, as data:video/mp4;base64,AAAA."
# What data: URIs call a file -> the suffix it is kept with; only its contents decide what it is.
SUFFIX_OF = {"video/mp4": ".mp4", "image/gif": ".gif", "image/png": ".png", "image/jpeg": ".jpg"}


def video_file(path: Path, name: str) -> VideoFile:
    state = path.stat()
    return VideoFile(str(path), name, (state.st_mtime_ns, state.st_size))


class Library:
    """Videos and images in folders that were allowed when the server was started."""

    def __init__(self, folders: Iterable[Path]):
        self.folders = [folder.resolve() for folder in folders]

    def find(self, text: str) -> VideoFile:
        """The file of a path (absolute, or relative to a folder) or file: URI; ApiError 403 or 404.

        Links are followed before the check, so none leads outside. What lies outside is answered
        alike whether it exists or not.
        """
        if text.startswith("file:"):
            text = urllib.parse.unquote(urllib.parse.urlsplit(text).path)
        if "\0" in text or not text:
            raise ApiError(400, "The path of the video is empty or no path: give a file's name.", param="url")
        for folder in self.folders:
            try:
                path = (folder / text).resolve()
                if path.is_relative_to(folder) and path.is_file():
                    return video_file(path, path.relative_to(folder).as_posix())
            except (OSError, RuntimeError, ValueError):  # names too long, loops of links
                continue
        if not self.folders:
            raise ApiError(403, NO_FOLDERS, "forbidden_path", "url")
        raise ApiError(
            403,
            f"The folders this server may read have no file {text[:200]!r}: check the path, or upload it.",
            "forbidden_path",
            "url",
        )

    def names(self) -> list[str]:
        """Videos and images in the folders, sorted, at most MOST_LISTED."""
        found = []
        for folder in self.folders:
            for path in sorted(folder.rglob("*")):
                if path.suffix.lower() in (*VIDEO_SUFFIXES, *SUFFIXES) and path.is_file():
                    found.append(path.relative_to(folder).as_posix())
                if len(found) >= MOST_LISTED:
                    return found
        return found


@dataclasses.dataclass(frozen=True)
class Upload:
    id: str
    name: str
    path: Path
    size: int
    created: int  # seconds since 1970


class Uploads:
    """Files given by users, in a folder of the server's own; beyond stored_bytes the oldest go.

    Thread-safe. `close` removes them all.
    """

    def __init__(self, limits: Limits):
        self._limits = limits
        self.folder = Path(tempfile.mkdtemp(prefix="tempo-serve-"))
        self._items: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()

    def new(self, name: str) -> "Writing":
        return Writing(self, self.folder, name, self._limits.upload_bytes)

    def add(self, upload: Upload) -> None:
        with self._lock:
            self._items[upload.id] = upload
            while len(self._items) > 1 and self.stored_bytes > self._limits.stored_bytes:
                _, oldest = self._items.popitem(last=False)
                oldest.path.unlink(missing_ok=True)

    @property
    def stored_bytes(self) -> int:
        return sum(item.size for item in self._items.values())

    def get(self, identity: str) -> Upload:
        with self._lock:
            if identity in self._items:
                self._items.move_to_end(identity)
                return self._items[identity]
        raise ApiError(
            404, f"There is no uploaded file {identity[:80]!r} (any more): upload it.", "file_not_found"
        )

    def find(self, identity: str) -> VideoFile:
        upload = self.get(identity)
        return video_file(upload.path, upload.name)

    def remove(self, identity: str) -> None:
        upload = self.get(identity)
        with self._lock:
            self._items.pop(identity, None)
        upload.path.unlink(missing_ok=True)

    def items(self) -> list[Upload]:
        with self._lock:
            return list(self._items.values())

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def from_data_uri(self, uri: str) -> Upload:
        """The file in a data: URI; ApiError for what is none. The same bytes again are the same upload."""
        head, comma, data = uri.partition(",")
        kind, *parameters = head.removeprefix("data:").split(";")
        if not comma or "base64" not in parameters:
            raise ApiError(400, NOT_BASE64, "invalid_data_uri", "url")
        if len(data) * 3 // 4 > self._limits.upload_bytes + 3:
            raise too_large(self._limits.upload_bytes)
        try:
            content = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ApiError(400, NOT_BASE64, "invalid_data_uri", "url") from error
        identity = f"file-{hashlib.sha256(content).hexdigest()[:24]}"
        with self._lock:
            known = self._items.get(identity)
        if known is not None:
            return known
        with self.new("the video" + SUFFIX_OF.get(kind, "")) as writing:
            writing.write(content)
            return writing.done(identity)


class Writing:
    """A file being uploaded: gone unless `done` was called before the block ends."""

    def __init__(self, uploads: Uploads, folder: Path, name: str, most: int):
        self._uploads, self._most, self.size = uploads, most, 0
        self.name = Path(name.replace("\\", "/")).name[:120] or "the video"
        suffix = Path(self.name).suffix.lower()
        safe = suffix if suffix[1:].isalnum() and len(suffix) < 8 else ""
        self._path = folder / (secrets.token_hex(12) + safe)
        self._file = self._path.open("xb")
        self._kept = False

    def __enter__(self) -> "Writing":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self._kept:
            self._path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """ApiError 413 beyond the limit."""
        self.size += len(data)
        if self.size > self._most:
            raise too_large(self._most)
        self._file.write(data)

    def done(self, identity: str | None = None) -> Upload:
        self._file.close()
        self._kept = True
        identity = identity or f"file-{secrets.token_hex(12)}"
        upload = Upload(identity, self.name, self._path, self.size, int(time.time()))
        self._uploads.add(upload)
        return upload


def too_large(most: int) -> ApiError:
    return ApiError(
        413,
        f"The file is larger than the {most >> 20} MiB this server takes: cut it or scale it down.",
        "too_large",
    )
