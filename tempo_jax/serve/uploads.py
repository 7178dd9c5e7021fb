"""Files given by users, in one private folder of the server's own, and where those of killed servers go."""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from multiprocessing.util import Finalize
from pathlib import Path
from typing import IO

from tempo_jax.errors import TempoError
from tempo_jax.serve.errors import ApiError
from tempo_jax.serve.limits import MIB, Limits
from tempo_jax.serve.sessions import Identity, Owner
from tempo_jax.serve.store import VideoFile, video_file
from tempo_jax.video.images import SUFFIXES

IDENTITY = re.compile(r"file-[0-9a-f]{24}")
LOCK = "lock"
TRIES = 20
MOST_SOCKET_PATH = 74  # the system allows 107 characters, and 33 follow
YOUNG, YOUNG_SECONDS = "new-", 60.0  # a folder that is just being made
FULL = (errno.ENOSPC, errno.EDQUOT)
# First bytes of images -> suffix, for frames of a list, which have no other name.
PICTURES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"RIFF": ".webp",
    b"BM": ".bmp",
}


@dataclasses.dataclass(frozen=True)
class Upload:
    """owner: None for what came within a request, which is not listed and goes with it."""

    id: str
    name: str
    path: Path
    size: int
    created: int  # seconds since 1970
    owner: Owner | None

    def video(self) -> VideoFile:
        """The file as the service takes it."""
        return video_file(self.path, self.name)


class Uploads:
    """Beyond stored_bytes the oldest go, of those that have most. Thread-safe. `close` removes them all."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self.folder, self._lock_file = own_folder()
        self._home = self.folder.parent
        self._items: OrderedDict[str, Upload] = OrderedDict()
        self._last: Finalize | None = None  # what the process does at its end
        self._writing = 0  # bytes of files that are not complete, or there for one request only
        self._uses: Counter[str] = Counter()  # requests that use a file that came within one
        self._lock = threading.Lock()

    def new(self, name: str, owner: Owner | None = None, most: int | None = None) -> "UploadWriter":
        """A file to be written, of at most `most` bytes; ApiError 507 where there is no room."""
        return UploadWriter(self, name, owner, most or self._limits.upload_bytes)

    def keep_temporary_files(self) -> None:
        """Puts other temporary files of this process there too, such as multiprocessing's socket."""
        if len(str(self.folder)) < MOST_SOCKET_PATH:
            tempfile.tempdir = str(self.folder)
            # After multiprocessing's own, which has priority -100, has removed its socket.
            self._last = Finalize(None, self.remove_all, exitpriority=-200)

    def check_room(self, size: int) -> None:
        """ApiError 413 or 507 for an announced size that cannot be kept."""
        if size > self._limits.upload_bytes + MIB:
            raise too_large(self._limits.upload_bytes)
        if size > shutil.disk_usage(self.folder).free:
            raise disk_full()

    def grow(self, size: int) -> None:
        """Counts bytes of a file being written, negative ones when it is over."""
        with self._lock:
            self._writing += size
            if size > 0 and self._writing > self._limits.stored_bytes:
                raise disk_full("for uploads is taken by those under way")
            self._make_room()

    def add(self, upload: Upload) -> None:
        with self._lock:
            self._items[upload.id] = upload
            self._make_room(upload.id)

    def _make_room(self, kept: str | None = None) -> None:
        while self._writing + self.stored_bytes > self._limits.stored_bytes:
            others = [item for item in self._items.values() if item.id != kept]
            if not others:
                return
            held: Counter[str] = Counter()
            for item in others:
                held[item.owner.session] += item.size
            ((most, _),) = held.most_common(1)
            oldest = next(item for item in others if item.owner.session == most)
            del self._items[oldest.id]
            _delete(oldest.path)

    @property
    def stored_bytes(self) -> int:
        return sum(item.size for item in self._items.values())

    def get(self, identity: str, who: Identity) -> Upload:
        """ApiError 404 for what is not there, or not theirs."""
        with self._lock:
            item = self._items.get(identity)
            if item is not None and item.owner.admits(who):
                self._items.move_to_end(identity)
                return item
        raise ApiError(
            404, f"There is no uploaded file {identity[:80]!r} (any more): upload it.", "file_not_found"
        )

    def use(self, identity: str, made: Path, name: str, size: int) -> Upload:
        """A file, or folder, that came within a request, under a name made of its contents: the same again is
        the same video. `release` it."""
        path = self.folder / f"{identity}{made.suffix}"
        with self._lock:
            if path.exists():
                _delete(made)
                self._writing -= size
            else:
                os.utime(made, (0, 0))  # part of what it is known by
                made.rename(path)
            self._uses[identity] += 1
        return Upload(identity, name, path, size, 0, None)

    def release(self, upload: Upload) -> None:
        """Removes it unless another request uses it."""
        with self._lock:
            self._uses[upload.id] -= 1
            if self._uses[upload.id] <= 0:
                del self._uses[upload.id]
                self._writing -= upload.size
                _delete(upload.path)

    def find(self, identity: str, who: Identity) -> VideoFile:
        return self.get(identity, who).video()

    def remove(self, identity: str, who: Identity) -> None:
        upload = self.get(identity, who)
        with self._lock:
            self._items.pop(identity, None)
        _delete(upload.path)

    def items(self, who: Identity) -> list[Upload]:
        """The uploads of a session, oldest first."""
        with self._lock:
            mine = [item for item in self._items.values() if item.owner.session == who.session]
        return sorted(mine, key=lambda item: item.created)

    def forget(self, who: Identity) -> None:
        """Removes all of the session."""
        for item in self.items(who):
            self.remove(item.id, who)

    def frames(self, pictures: Sequence[Path]) -> Upload:
        """A folder of links to images, which counts as a video; to be released, as `use`.

        ApiError 400 for a file that is none: it would be left out.
        """
        suffixes = [_picture_suffix(path, number) for number, path in enumerate(pictures, 1)]
        digest = hashlib.sha256(b"\n".join(map(os.fsencode, pictures))).hexdigest()
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for number, (path, suffix) in enumerate(zip(pictures, suffixes, strict=True)):
            (folder / f"{number:06}{suffix}").symlink_to(path)
        return self.use(f"frames-{digest[:24]}", folder, "the frames", 0)

    def close(self) -> None:
        """Removes them all; what belongs to multiprocessing goes at the process's end."""
        if self._last is None:
            self.remove_all()
        else:
            for path in self.folder.iterdir():
                if not path.name.startswith("pymp-"):
                    _delete(path)

    def remove_all(self) -> None:
        """Removes the folder and all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock_file.close()
        with contextlib.suppress(OSError):
            self._home.rmdir()  # unless others are in it


def _picture_suffix(path: Path, number: int) -> str:
    """By its first bytes or, of rarer forms, its name."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError:
        head = b""
    found = next((suffix for magic, suffix in PICTURES.items() if head.startswith(magic)), path.suffix)
    if found.lower() not in SUFFIXES:
        raise ApiError(
            400,
            f"Frame {number} cannot be read as an image: send JPEG, PNG, WebP, GIF or BMP.",
            "invalid_frame",
        )
    return found


class UploadWriter:
    """A file being uploaded: gone unless `done` was called before the block ends."""

    def __init__(self, uploads: Uploads, name: str, owner: Owner | None, most: int):
        self._uploads, self._owner, self._most, self.size = uploads, owner, most, 0
        last = Path(printable(name).replace("\\", "/")).name[:120]
        self.name = last if last.strip(". ") else "the video"
        suffix = Path(self.name).suffix.lower()
        safe = suffix if suffix[1:].isascii() and suffix[1:].isalnum() and len(suffix) < 8 else ""
        self._path = uploads.folder / (secrets.token_hex(12) + safe)
        self._sum = hashlib.sha256() if owner is None else None
        self._kept = False
        with _full_disk():
            self._file = self._path.open("xb", buffering=0)

    def __enter__(self) -> "UploadWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self._kept:
            self._path.unlink(missing_ok=True)
            self._uploads.grow(-self.size)

    def write(self, data: bytes) -> None:
        """ApiError 413 beyond the limit, 507 where the disk is full."""
        if self.size + len(data) > self._most:
            raise too_large(self._most)
        self.size += len(data)
        self._uploads.grow(len(data))
        if self._sum is not None:
            self._sum.update(data)
        view = memoryview(data)
        with _full_disk():
            while view:
                view = view[self._file.write(view) :]

    def done(self) -> Upload:
        """The upload, listed as its owner's."""
        self._file.close()
        self._kept = True
        identity = f"file-{secrets.token_hex(12)}"
        upload = Upload(identity, self.name, self._path, self.size, int(time.time()), self._owner)
        self._uploads.grow(-self.size)
        self._uploads.add(upload)
        return upload

    def done_within_a_request(self) -> Upload:
        """Finishes a file of a request, named by its contents, to be released with the request."""
        self._file.close()
        self._kept = True
        return self._uploads.use(f"inline-{self._sum.hexdigest()[:24]}", self._path, self.name, self.size)


def printable(name: str) -> str:
    """A file's name as text that can be encoded: bytes that are none are replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def private_folder() -> Path:
    """The folder of uploads, which only this user can read; links are refused."""
    home = Path(tempfile.gettempdir()) / f"tempo-serve-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        home.mkdir(mode=0o700)
    found = home.lstat()
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return home if mine else Path(tempfile.mkdtemp(prefix=f"{home.name}-"))


def own_folder() -> tuple[Path, IO]:
    """A new folder for one server, and its lock, which is held before others see the folder."""
    for _ in range(TRIES):
        # Another server that ends may take an empty home away.
        with contextlib.suppress(FileNotFoundError):
            home = private_folder()
            clean(home)
            made = Path(tempfile.mkdtemp(prefix=YOUNG, dir=home))
            lock = _locked(made / LOCK)
            return made.rename(home / made.name.removeprefix(YOUNG)), lock
    raise TempoError(f"No folder for uploads can be made in {tempfile.gettempdir()}: set TMPDIR.")


def clean(home: Path) -> None:
    """Removes the folders of servers that have ended without doing so; those that run hold their lock."""
    for folder in home.iterdir():
        with contextlib.suppress(OSError):
            if folder.name.startswith(YOUNG) and time.time() - folder.stat().st_mtime < YOUNG_SECONDS:
                continue
            with _locked(folder / LOCK):
                shutil.rmtree(folder, ignore_errors=True)


def _locked(path: Path) -> IO:
    """The open file, locked; OSError where another process holds it."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise disk_full() from error
        raise


def disk_full(where: str = "is full") -> ApiError:
    return ApiError(
        507,
        f"The server's disk space {where}: delete uploads, send a smaller file, or try again later.",
        "disk_full",
    )


def too_large(most: int) -> ApiError:
    return ApiError(
        413,
        f"The file is larger than the {most >> 20} MiB this server takes: cut it or scale it down.",
        "too_large",
    )
