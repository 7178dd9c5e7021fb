"""Local paths and gs:// URLs, distinguished in one place.

`path` returns a pathlib.Path for the former and an etils.epath.Path for the latter. A folder in gs:// is only
a prefix of names: nothing is renamed there, and the file without which it does not load is written last.
Libraries that only read or write disks get a local copy (`fetched`, `staged`).
"""

import atexit
import contextlib
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any

from tempo_jax.errors import TempoError

MOUNT = "mount the storage (docs/guides/cloud-storage.md) and give a path"
SCHEME = "gs://"
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.IGNORECASE | re.DOTALL)

AnyPath = Any  # pathlib.Path or etils.epath.Path


def url(path: str | os.PathLike) -> str:
    """The URL that is given for a path, also where pathlib has made gs:/bucket of it; "" for a path."""
    match = _URL.fullmatch(os.fspath(path))
    return f"{match[1]}://{match[2]}" if match else ""


def remote(path: str | os.PathLike) -> bool:
    """Whether a path is one of Google Cloud Storage."""
    return url(path).lower().startswith(SCHEME)


def check_local(what: str, path: str | os.PathLike) -> None:
    """TempoError for a URL where only a disk will do, as for videos; `what` the path is."""
    if address := url(path):
        raise TempoError(f"{what} {address} is a URL: {MOUNT}")


def local(what: str, path: str | os.PathLike) -> Path:
    """A local path, `~` for the home folder in front (the shell leaves it in --target=~/x)."""
    check_local(what, path)
    return Path(path).expanduser()


def check_scheme(what: str, given: str | os.PathLike) -> str:
    """Returns what is wrong with the form of a path, "" if nothing is; uses no network."""
    found = url(given)
    if not found:
        return ""
    if not remote(found):
        scheme = found.partition("://")[0]
        return f"{what} {found} is in {scheme}:// storage, which is not read here: use gs://, or {MOUNT}"
    bucket = found[len(SCHEME) :].partition("/")[0]
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", bucket):
        return f"{what} {found} names no bucket: give gs://BUCKET/FOLDER"
    return ""


def path(what: str, given: str | os.PathLike) -> AnyPath:
    """The path that a user gave; of gs:// only after its bucket has answered.

    Args:
      what: what the path is, for error messages: "the workdir".
      given: a local path, `~` allowed, or gs://BUCKET/FOLDER.

    Returns:
      A pathlib.Path or an etils.epath.Path.

    Raises:
      TempoError: other schemes; a missing extra, missing credentials, a missing or forbidden bucket.
    """
    if not url(given):
        return Path(given).expanduser()
    if wrong := check_scheme(what, given):
        raise TempoError(wrong)
    from tempo_jax.utils import gcs

    return gcs.path(what, SCHEME + url(given)[len(SCHEME) :].rstrip("/"))


def absolute(given: AnyPath) -> AnyPath:
    """With links followed, on a disk; elsewhere as it is (epath would break it)."""
    return given if remote(given) else Path(given).resolve()


def files(folder: AnyPath) -> dict[str, int]:
    """Name below the folder -> bytes, of every file in it, sorted; one listing in gs://."""
    if remote(folder):
        from tempo_jax.utils import gcs

        return gcs.files(folder)
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(found)}


def read_bytes(what: str, given: str | os.PathLike) -> bytes:
    """A file that a user named; OSError where it cannot be read."""
    return path(what, given).read_bytes()


def write_text(target: AnyPath, text: str) -> None:
    """Writes a small file atomically."""
    if remote(target):
        from tempo_jax.utils import gcs

        gcs.put_bytes(target, text.encode())
        return
    fresh = target.with_name(f".{target.name}.{os.getpid()}.incomplete")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(target)


def remove(target: AnyPath, last: Iterable[str] = ()) -> None:
    """Deletes a file or a folder; files named `last`, without which it does not load, go first."""
    if remote(target):
        from tempo_jax.utils import gcs

        gcs.remove(target, tuple(last))
    elif target.is_dir() and not target.is_symlink():
        for name in last:
            for mark in target.rglob(name):
                mark.unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)
    else:
        target.unlink(missing_ok=True)


def move(source: AnyPath, target: AnyPath, last: Iterable[str] = ()) -> None:
    """Renames a folder; where that is not possible, by copies, after which `last` leave the old one first."""
    if remote(source):
        from tempo_jax.utils import gcs

        gcs.move(source, target, tuple(last))
        return
    target.parent.mkdir(exist_ok=True)
    try:
        source.rename(target)
    except OSError:  # as on gcsfuse
        shutil.copytree(source, target, dirs_exist_ok=True)
        remove(source, last)


def move_up(folder: AnyPath) -> None:
    """Moves what a folder holds to the folder above it, file by file, and removes it; in gs:// by copies."""
    if remote(folder):
        move(folder, folder.parent)
        return
    for name in files(folder):
        (folder.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(folder.parent / name)
    shutil.rmtree(folder)


def put(source: Path, target: AnyPath, last: Iterable[str] = (), report: Callable | None = None) -> None:
    """Copies the files of a local folder to another place, and those named `last` after all others.

    report: called as (stage, done, total), in bytes.
    """
    if remote(target):
        from tempo_jax.utils import gcs

        gcs.put(source, target, tuple(last), report)
        return
    found, done = files(source), 0
    for name in sorted(found, key=lambda name: (PurePath(name).name in last, name)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
        done += found[name]
        if report is not None:
            report("copying", done, sum(found.values()))


def fetched(folder: AnyPath, wanted: Callable[[str], bool] = lambda name: True) -> Path:
    """A folder on this machine: itself, or a copy of gs:// that lasts as long as the process.

    wanted: which of its files, by their names below the folder.
    """
    if not remote(folder):
        return Path(folder)
    from tempo_jax.utils import gcs

    target = scratch() / re.sub(r"[^A-Za-z0-9._-]+", "-", os.fspath(folder)) / PurePath(folder).name
    gcs.fetch(folder, target, wanted)
    return target


@contextlib.contextmanager
def staged(
    target: AnyPath, last: Iterable[str] = (), report: Callable | None = None, *, always: bool = False
) -> Iterator[AnyPath]:
    """`target` itself on a disk; for gs:// a local folder that is copied there when the block ends well.

    always: also on a disk, where files named `last` have to be written last.
    """
    if not always and not remote(target):
        yield target
        return
    with tempfile.TemporaryDirectory(prefix="tempo_jax-") as folder:
        place = Path(folder) / PurePath(target).name
        place.mkdir()
        yield place
        put(place, target, last, report)


@contextlib.contextmanager
def staged_file(target: AnyPath) -> Iterator[AnyPath]:
    """The same for one file; others beside it stay."""
    if not remote(target):
        yield target
        return
    with staged(target.parent) as folder:
        yield folder / target.name


@functools.cache
def scratch() -> Path:
    """A folder of this process, gone when it ends; $TMPDIR says where."""
    folder = tempfile.mkdtemp(prefix="tempo_jax-")
    owner = os.getpid()

    def clean() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(clean)
    return Path(folder)
