"""A working directory has one owner: the trainer that runs in it (process 0, where there are several).

workdir/owner.json says who: {"host", "process", "since", "token", "ended"}. The owner holds a lock on that
file, which the system takes back when its process ends, however it ends, and touches it every few seconds:
on file systems whose locks other hosts do not see, an owner that still touches it is alive. gs:// has no
locks at all: there the owner writes the file anew, and whoever reads it twice sees whether somebody does.
Only an owner changes anything that is there; exporting and evaluating read.
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
BEAT_SECONDS = 5.0
# Without a beat, after which an owner on another host is taken for dead; a network file system may show
# another host's changes this late.
PATIENCE_SECONDS = 40.0


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
    """Holds a working directory while it is entered; TempoError where somebody else does.

    token: a word of this owner alone, which whoever sees the same folder can read there.
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
            if read(self._workdir).get("token") == self.token:
                self._write(ended=True)
        except (OSError, TempoError):
            pass  # a full or vanished disk: the next owner sees that the lock is free
        self._file.close()

    def check(self) -> None:
        """TryAgain where another run has taken the folder over, after this one had stood still."""
        now = read(self._workdir)
        if now and now.get("token") != self.token:
            raise TryAgain(
                f"{self._workdir} was taken over by {_who(now)} while this run stood still: stop one of them"
            )

    def _wait_for_the_last_owner(self) -> None:
        """Returns when there is none; on another host it may take PATIENCE_SECONDS to be sure of that."""
        began, first, told = time.monotonic(), self._file.beaten(), False
        while True:
            free, last = self._file.lock(), read(self._workdir)
            elsewhere = last.get("host", "") != socket.gethostname()
            if free is not False and (not last or last.get("ended") or _is_dead(last)):
                return
            if free is not None and not elsewhere:
                if free:
                    return  # it was killed
                self._refuse(last)
            if self._file.beaten() != first:
                self._refuse(last)
            if time.monotonic() - began > PATIENCE_SECONDS:
                return
            if not told:
                told = True
                from tempo_jax.training.metrics import say

                say(
                    f"{self._workdir} was last trained in by {_who(last)}, which has not said that it ended: "
                    f"looking for {PATIENCE_SECONDS:.0f} s whether it is alive"
                )
            time.sleep(0.5)

    def _refuse(self, last: dict) -> None:
        raise TempoError(
            f"{self._workdir} is being trained in by {_who(last)}: stop that run or choose another --workdir"
        )

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                self._file.beat()
            except (OSError, TempoError):
                continue  # the disk has trouble, which whoever writes to it will tell

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


def read(workdir: Path) -> dict[str, Any]:
    """What the last owner wrote; empty where there was none."""
    try:
        found = json.loads((workdir / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_dead(last: dict) -> bool:
    """Whether the last owner was a process of this host that is no more."""
    if last.get("host") != socket.gethostname() or not isinstance(last.get("process"), int):
        return False
    if last.get("namespace") != _namespace():  # of another container, or of a time before numbers began anew
        return False
    try:
        os.kill(last["process"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _namespace() -> str:
    """Where numbers of processes mean the same."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _who(owner: dict) -> str:
    return "process {process} on {host} since {since}".format_map(
        {"process": "?", "host": "another host", "since": "?"} | owner
    )


def lock(descriptor: int) -> bool | None:
    """Whether the lock of an open file is ours now; None where the file system has no locks."""
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
