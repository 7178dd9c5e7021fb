"""Folders that are written atomically and never replace the files of others.

A new folder is written beside its place and renamed. Where the place is an empty folder or a mount point,
it is written inside and moved up, what makes it load last. Where folders are not renamed atomically, as in
gs:// (`commit.by_marker`), a target that is replaced goes first, what it loads by before all else, and the
new one is written in its place.
"""

import argparse
import contextlib
import fnmatch
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tempo_jax.errors import TempoError
from tempo_jax.utils import failures, mounts, paths, signals
from tempo_jax.utils.commit import AUTO, by_marker
from tempo_jax.utils.paths import AnyPath

FORCE = "force"
SKIPPED = "skipped.jsonl"  # of prepared data sets
WRITER = {"writer": "tempo_jax"}  # in the metadata of our safetensors files
NATIVE = ("model.json", "params", "tokenizer", "digests.json")
PREPARED = (
    SKIPPED, "manifest.json", "plan.json", "parts", "frame_counts.json", "dataset_info.json", "features.json",
    "metadata.json", "*.array_record*", "*.labels.txt",
)  # fmt: skip
EXPORTED = (
    "*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*",
    "README*", "NOTICE*", "additional_chat_templates",
)  # fmt: skip
LAST = ("dataset_info.json", "config.json", "model.json")  # what makes a folder load
INCOMPLETE = ".incomplete"  # what is being written, or was when a run was killed
_BEGUN = ("plan.json",)  # what a go has before it has anything
_EMPTY = ("lost+found", ".incomplete")  # of a fresh file system; of a run that was killed


@contextlib.contextmanager
def atomic_directory(
    target: str | os.PathLike,
    overwrite: bool | str = False,
    *,
    keep: Iterable[str | os.PathLike | None] = (),
    commit: str = AUTO,
) -> Iterator[AnyPath]:
    """Yields a new folder that becomes `target` when the block ends without an exception.

    overwrite: True replaces a folder that holds only files of this package, "force" any folder.
    keep: what is read from; a target that is, contains or lies in one of these is refused.
    commit: one of `commit.COMMITS`. By a marker, the folder is the target itself: write what is in LAST last.
    Every process enters it; process 0 makes, renames and removes. TempoError for a target that is not to
    be replaced or cannot be written.
    """
    import jax  # not above: `--help` imports this module

    place: AnyPath = paths.absolute(paths.path("the target", target))
    if by_marker(place, commit):
        with _replacing_in_place(place, overwrite, keep) as place:
            yield place
        return
    first = jax.process_index() == 0
    if first:
        _recover(place)
    for source in keep:
        if source is not None:
            check_apart(place, source)
    check_replaceable(place, overwrite)
    inside = _in_place(place)
    fresh = _beside(place, inside)
    with contextlib.ExitStack() as stack:
        if first:
            with failures.report_system_errors(place, fresh):
                made = _make_parents(fresh.parent)
                stack.enter_context(_alone(fresh, place))
            stack.callback(_remove_empty, made)
        _barrier(f"begin {place}")
        try:
            with failures.report_system_errors(place, fresh):
                yield fresh
                _barrier(f"written {place}")
                if first:
                    check_replaceable(place, overwrite)  # it may exist by now
                    with signals.held():
                        (_move_up if inside else _take_place)(fresh, place)
        finally:
            if first:
                with signals.held():
                    _remove(fresh)
        _barrier(f"end {place}")


@contextlib.contextmanager
def put_together(
    target: AnyPath, *, shared: bool, commit: str = AUTO
) -> Iterator[tuple[AnyPath, Callable[[], None]]]:
    """Yields a folder in which `target` is assembled over several runs, and a function that completes it.

    An interrupted run leaves what it wrote for the next one, and no folder if it wrote nothing.

    Args:
      target: folder to assemble, here or in gs://.
      shared: whether other processes write to it at the same time.
      commit: one of `commit.COMMITS`; by a marker, the folder is the target itself.

    Raises:
      TempoError: Another run is writing it, and does not share it.
    """
    if paths.remote(target):
        from tempo_jax.utils import gcs

        gcs.check_writable("the target", target)
        yield target, lambda: None
        return
    _recover(target)
    marked = by_marker(target, commit)
    inside = not marked and _in_place(target)
    fresh = target if marked else _beside(target, inside)
    with failures.report_system_errors(target, fresh):
        made = _make_parents(fresh if marked else fresh.parent)
        fresh.mkdir(exist_ok=True)
        descriptor = os.open(fresh, os.O_RDONLY)
    ours = _locked(descriptor, shared)
    try:
        if not ours:
            raise TempoError(f"another run is writing {target}: wait for it, or choose another folder")
        with failures.report_system_errors(target, fresh):
            take = (lambda *_: None) if marked else _move_up if inside else _take_place
            yield fresh, lambda: take(fresh, target)
    finally:
        os.close(descriptor)
        if ours and not any(path.is_file() for path in fresh.rglob("*") if path.name not in _BEGUN):
            for path in list(fresh.iterdir()) if marked else [fresh]:
                _remove(path)
        _remove_empty(made)


def _beside(target: Path, inside: bool) -> Path:
    """Where a folder is written before it takes its place."""
    return target / INCOMPLETE if inside else target.with_name(f".{target.name}{INCOMPLETE}")


@contextlib.contextmanager
def _replacing_in_place(target: AnyPath, overwrite: bool | str, keep: Iterable) -> Iterator[AnyPath]:
    """The target itself, emptied; it holds a file `INCOMPLETE` until it is whole, and loads only then."""
    import jax

    first = jax.process_index() == 0
    for source in keep:
        if source is not None:
            check_apart(target, source)
    with contextlib.ExitStack() as stack:
        if first:
            check_replaceable(target, overwrite)
            stack.enter_context(_owned_in_place(target))
        _barrier(f"begin {target}")
        try:
            with _errors_of(target):
                yield target
            _barrier(f"written {target}")
        except BaseException:
            if first:
                with signals.held(), contextlib.suppress(Exception):
                    paths.remove(target, LAST)
            raise
        if first:
            paths.remove(target / INCOMPLETE)
        _barrier(f"end {target}")


@contextlib.contextmanager
def _owned_in_place(target: AnyPath) -> Iterator[None]:
    """Empties the target, and refuses one that another run of this host writes."""
    if paths.remote(target):
        from tempo_jax.utils import gcs

        gcs.check_writable("the target", target)
        paths.remove(target, LAST)
        paths.write_text(target / INCOMPLETE, "")
        yield
        return
    with failures.report_system_errors(target):
        made = _make_parents(target)
    try:
        with _alone(target, target):
            paths.write_text(target / INCOMPLETE, "")
            yield
    finally:
        _remove_empty(made)


def _errors_of(target: AnyPath) -> contextlib.AbstractContextManager:
    if paths.remote(target):
        from tempo_jax.utils import gcs

        return gcs.report_errors(f"the target {target}")
    return failures.report_system_errors(target)


def check_apart(target: str | os.PathLike, source: str | os.PathLike, *, inside: bool = False) -> None:
    """TempoError where writing `target` would take away what is read from `source`.

    Links are followed, also those in it: a Hugging Face cache is made of them. A folder is the same by any
    of its names.
    inside: a target inside of `source` is well, as that of a data set beside its media.
    """
    if paths.remote(target) or paths.remote(source):
        ours, theirs = (paths.url(path).rstrip("/") + "/" for path in (target, source))
        within = ours.startswith(theirs)
        meets = "/" not in (ours, theirs) and (within or theirs.startswith(ours))
        if meets and not (inside and within and ours != theirs):
            raise TempoError(
                f"the target {target} and what is read ({source}) overlap: choose another folder"
            )
        return
    target, source = Path(target).expanduser().resolve(), Path(source).expanduser()
    above = _identities(target, *target.parents)
    for path in dict.fromkeys((source.resolve(), *_linked(source, deep=not inside))):
        if target == path or _identities(target) & _identities(path):
            relation = "is"
        elif (target in path.parents) or _identities(target) & _identities(*path.parents):
            relation = "contains"
        elif (path in target.parents or above & _identities(path)) and not inside:
            relation = "lies in"
        else:
            continue
        raise TempoError(f"the target {target} {relation} what is read ({source}): choose another folder")


def _linked(source: Path, deep: bool) -> Iterator[Path]:
    """Targets of the links in a folder; deep: in its subfolders too, of which a data set has many."""
    for folder, inner, files in os.walk(source):
        for name in (*inner, *files):
            if (path := Path(folder) / name).is_symlink():
                yield path.resolve()
        if not deep:
            return


def _identities(*paths: Path) -> set[tuple[int, int]]:
    """(device, inode) of the paths that exist, which bind mounts and case-insensitive names share."""
    identities = set()
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat()
            identities |= {(status.st_dev, status.st_ino)} if status.st_ino else set()
    return identities


def check_replaceable(target: Path, overwrite: bool | str) -> None:
    """TempoError where `target` exists and is not to be replaced."""
    if paths.remote(target):
        if target.is_file():
            raise TempoError(f"{target} is a file: choose another folder")
    elif not os.path.lexists(target):
        return
    if overwrite == FORCE and (paths.remote(target) or target.is_dir()):
        return
    if not paths.remote(target) and not target.is_dir():
        raise TempoError(f"{target} is a file: choose another folder")
    if not _entries(target):
        return
    if not overwrite:
        raise TempoError(f"{target} exists already: remove it, choose another folder or pass --overwrite")
    if foreign := _foreign(target):
        named = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise TempoError(
            f"{target} holds what tempo_jax did not write ({named}): choose another folder, or pass "
            "--overwrite=force to lose that"
        )


def check_space(target: str | os.PathLike, nbytes: int) -> None:
    """TempoError where the disk of `target` has too little space for what is to be written."""
    if paths.remote(target):
        return
    target = Path(target).expanduser()
    place = next(path for path in (target.resolve(), *target.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < nbytes:
        raise TempoError(
            f"{target} needs {nbytes / 1e9:.2f} GB and {free / 1e9:.2f} GB are free there: free some space "
            "or choose another place"
        )


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """The option of every command that writes a folder."""
    parser.add_argument(
        "--overwrite",
        nargs="?",
        const=True,
        default=False,
        type=_overwrite,
        metavar=FORCE,
        help="replace a target that tempo_jax wrote; --overwrite=force replaces any folder",
    )


def _overwrite(text: str) -> str:
    if text != FORCE:
        raise argparse.ArgumentTypeError(f"{text!r} is not {FORCE}, the one word it takes")
    return text


def _entries(folder: AnyPath) -> list[str]:
    if paths.remote(folder):
        names = {name.partition("/")[0] for name in paths.files(folder)}
        return [] if INCOMPLETE in names else sorted(names)
    if (folder / INCOMPLETE).is_file():  # an unfinished one in place
        return []
    return sorted(name for name in os.listdir(folder) if name not in _EMPTY)


def _foreign(folder: Path) -> list[str]:
    """Entries of a folder that this package does not write."""
    names = _entries(folder)
    kinds = ((_is_native, NATIVE), (_is_prepared, PREPARED), (_is_exported, EXPORTED))
    known = next((patterns for is_one, patterns in kinds if is_one(folder)), ())
    return [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in known)]


def _is_native(folder: Path) -> bool:
    try:
        values = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        return isinstance(values, dict) and {"format", "kind", "config"} <= values.keys()
    except (OSError, ValueError):
        return False


def _is_prepared(folder: Path) -> bool:
    return (folder / SKIPPED).is_file() and (folder / "dataset_info.json").is_file()


def _is_exported(folder: Path) -> bool:
    """Whether all its weights are marked as ours."""
    files = list(folder.glob("*.safetensors"))
    mark = json.dumps(WRITER).strip("{}").replace(": ", ":").encode()
    return bool(files) and all(mark in _start(file) for file in files)


def _start(file: Path) -> bytes:
    with contextlib.suppress(OSError), file.open("rb") as data:
        return data.read(512)
    return b""


def _in_place(target: Path) -> bool:
    """Whether the target itself has to stay: an empty folder, or a mount point."""
    return target.is_dir() and (not _entries(target) or mounts.is_mount_point(target))


def _make_parents(folder: Path) -> list[Path]:
    """Makes a folder and returns what was missing, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(made: list[Path]) -> None:
    for path in made:
        with contextlib.suppress(OSError):  # it is not empty
            path.rmdir()


@contextlib.contextmanager
def _alone(fresh: Path, target: Path) -> Iterator[None]:
    """An empty `fresh` that no other run writes to; what a killed one left is taken away."""
    for _ in range(100):
        fresh.mkdir(exist_ok=True)
        descriptor = os.open(fresh, os.O_RDONLY)
        if not _locked(descriptor):
            os.close(descriptor)
            raise TempoError(f"another run is writing {target}: wait for it, or choose another folder")
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_ino == fresh.stat().st_ino:
                break
        os.close(descriptor)  # the other run has just ended
    try:
        for path in sorted(fresh.iterdir(), key=lambda path: path.name not in LAST):
            _remove(path)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int, shared: bool = False) -> bool:
    """Takes the lock of an open folder; False where another process has it."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _recover(target: Path) -> None:
    """Puts back what a run that was killed between two renames had put aside."""
    old = target.with_name(f".{target.name}.replaced")
    if old.exists() and not target.exists():
        old.rename(target)


def _take_place(fresh: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.replaced")
    if target.exists():
        _remove(old)
        target.rename(old)
    try:
        fresh.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    _remove(old)


def _move_up(fresh: Path, target: Path) -> None:
    """Moves the old entries aside and the new ones up, the files that make the folder loadable last."""
    old = target / ".replaced"
    _remove(old)
    if names := [name for name in _entries(target) if name != old.name]:
        old.mkdir()
        for name in sorted(names, key=lambda name: name not in LAST):
            (target / name).rename(old / name)
    try:
        moved = []
        for name in sorted(os.listdir(fresh), key=lambda name: name in LAST):
            (fresh / name).rename(target / name)
            moved.append(name)
    except BaseException:
        for name in moved:
            _remove(target / name)
        for name in names:
            (old / name).rename(target / name)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    """Takes away a folder or file; again, while a thread that has not ended writes to it."""
    for attempt in range(50):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        if not os.path.lexists(path):
            return
        time.sleep(0.01 * attempt)


def _barrier(name: str) -> None:
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
