"""Ownership of a working directory: one trainer (its process 0) at a time.

workdir/owner.json names the owner: {"host", "process", "since", "token", "ended"}. The owner holds a lock on
that file, which the system releases when its process ends, however it ends, and touches it every few seconds:
on file systems whose locks other hosts do not see, an owner that still touches it is alive. gs:// has no
locks: there the owner rewrites the file, and a reader that reads it twice sees whether it is still rewritten.
Only an owner writes to the folder; exporting and evaluating only read.
"""

import contextlib
import datetime
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any, Protocol

from tempo_jax.errors import TempoError, TryAgain
from tempo_jax.utils import paths

FILE = "owner.json"
HEARTBEAT_SECONDS = 5.0
# Time without a heartbeat after which an owner on another host counts as dead; network file systems may show
# another host's changes this late.
STALE_AFTER_SECONDS = 40.0


class Held(Protocol):
    """The file as an owner holds it."""

    def lock(self) -> bool | None:
        """Whether it is ours now; None where there are no locks."""

    def beaten(self) -> int:
        """What changes with every beat."""

    def beat(self) -> None: ...

    def write(self, text: bytes) -> None: ...

    def close(self) -> None: ...


class OnDisk:
    """Open as long as it is held: the lock is the process's."""

    def __init__(self, path: Path):
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def lock(self) -> bool | None:
        return lock(self._descriptor)

    def beaten(self) -> int:
        return os.fstat(self._descriptor).st_mtime_ns

    def beat(self) -> None:
        os.utime(self._descriptor)

    def write(self, text: bytes) -> None:
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))

    def close(self) -> None:
        os.close(self._descriptor)


class InStorage:
    """An object: a beat writes it again, as long as it is still what was written last."""

    def __init__(self, path: Any):
        self._path, self._text = path, b""

    def lock(self) -> bool | None:
        return None

    def beaten(self) -> int:
        from tempo_jax.utils import gcs

        try:
            return int(gcs.filesystem().info(os.fspath(self._path)).get("generation") or 0)
        except FileNotFoundError:
            return 0

    def beat(self) -> None:
        if self._path.read_bytes() == self._text:
            self.write(self._text)

    def write(self, text: bytes) -> None:
        from tempo_jax.utils import gcs

        gcs.put_bytes(self._path, text)
        self._text = text

    def close(self) -> None:
        pass


class Owner:
    """Owns a working directory while it is entered; raises TempoError where another trainer does.

    Attributes:
      token: A random word of this owner, by which other processes recognize the same folder.
    """

    def __init__(self, workdir: Path):
        self._path, self._workdir = workdir / FILE, workdir
        self.token = secrets.token_hex(8)
        self._ended = threading.Event()

    def __enter__(self) -> "Owner":
        self._file: Held = (InStorage if paths.remote(self._path) else OnDisk)(self._path)
        try:
            self._wait_for_the_last_owner()
            self._write(ended=False)
        except BaseException:
            self._file.close()
            raise
        threading.Thread(target=self._beat, name="owner", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        try:
            if read_owner(self._workdir).get("token") == self.token:
                self._write(ended=True)
        except (OSError, TempoError):
            pass  # a full or vanished disk: the next owner sees that the lock is free
        self._file.close()

    def check(self) -> None:
        """Raises TryAgain where another run has taken the folder over, after this one was stalled."""
        now = read_owner(self._workdir)
        if now and now.get("token") != self.token:
            raise TryAgain(
                f"{self._workdir} was taken over by {_describe_owner(now)} while this run was stalled: "
                "stop one of them"
            )

    def _wait_for_the_last_owner(self) -> None:
        """Returns when there is none; on another host it may take STALE_AFTER_SECONDS to be sure of that."""
        began, first, is_announced = time.monotonic(), self._file.beaten(), False
        while True:
            free, last = self._file.lock(), read_owner(self._workdir)
            elsewhere = last.get("host", "") != socket.gethostname()
            if free is not False and (not last or last.get("ended") or _is_dead(last)):
                return
            if free is not None and not elsewhere:
                if free:
                    return  # it was killed
                self._refuse(last)
            if self._file.beaten() != first:
                self._refuse(last)
            if time.monotonic() - began > STALE_AFTER_SECONDS:
                return
            if not is_announced:
                is_announced = True
                from tempo_jax.training.metrics import say

                say(
                    f"{self._workdir} was last used by {_describe_owner(last)}, which did not end properly: "
                    f"watching for {STALE_AFTER_SECONDS:.0f} s whether it is alive"
                )
            time.sleep(0.5)

    def _refuse(self, last: dict) -> None:
        raise TempoError(
            f"{self._workdir} is being trained in by {_describe_owner(last)}: stop that run or choose "
            "another --workdir"
        )

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                self._file.beat()
            except (OSError, TempoError):
                continue  # the disk fails: the next checkpoint reports it

    def _write(self, ended: bool) -> None:
        values = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "namespace": _namespace(),
            "since": datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds"),
            "token": self.token,
            "ended": ended,
        }
        self._file.write(json.dumps(values).encode() + b"\n")


def read_owner(workdir: Path) -> dict[str, Any]:
    """Returns what the last owner wrote; empty where there was none."""
    try:
        values = json.loads((workdir / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _is_dead(last: dict) -> bool:
    """Returns whether the last owner was a process of this host that has ended."""
    if last.get("host") != socket.gethostname() or not isinstance(last.get("process"), int):
        return False
    if last.get("namespace") != _namespace():  # of another container, or from before a reboot
        return False
    try:
        os.kill(last["process"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _namespace() -> str:
    """Returns the namespace of process ids; "" where it is not known."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _describe_owner(owner: dict) -> str:
    return "process {process} on {host} since {since}".format_map(
        {"process": "?", "host": "another host", "since": "?"} | owner
    )


def lock(descriptor: int) -> bool | None:
    """Tries to lock an open file: whether that succeeded, or None where the file system has no locks."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
