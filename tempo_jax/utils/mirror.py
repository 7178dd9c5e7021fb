"""Mirrors growing files such as logs to gs://: they are written locally and uploaded from time to time.

Objects cannot be appended to, so each upload sends the whole file: at most every SECONDS, in a background
thread, and whenever the caller flushes, as before a checkpoint.
"""

import contextlib
import sys
import tempfile
import threading
from pathlib import Path, PurePath

from tempo_jax.utils import paths
from tempo_jax.utils.paths import AnyPath

SECONDS = 30.0


class Mirror:
    """Uploads new and changed files of a local folder.

    Attributes:
      folder: Where to write; the target itself if that is on a disk, where nothing is uploaded.
    """

    def __init__(self, target: AnyPath, known: tuple[str, ...] = ()):
        """known: files below `target` that the caller appends to; downloaded first."""
        self._target, self._kept = target, None
        self.folder: Path = target
        if not paths.remote(target):
            return
        self._kept = tempfile.TemporaryDirectory(prefix="tempo_jax-")
        self.folder = Path(self._kept.name) / PurePath(target).name
        self.folder.mkdir()
        self._sent: dict[str, tuple[int, int]] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        for name in known:
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).write_bytes((target / name).read_bytes())
                self._sent[name] = self._state(self.folder / name)
        self._trouble = ""
        threading.Thread(target=self._copy, name="mirror", daemon=True).start()

    def flush(self) -> None:
        """Uploads everything written so far; TempoError where the storage refuses it."""
        if self._kept is None:
            return
        from tempo_jax.utils import gcs

        with self._lock:
            for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
                name, state = path.relative_to(self.folder).as_posix(), self._state(path)
                if self._sent.get(name) != state and not path.name.startswith("."):
                    with gcs.report_errors(f"{self._target}/{name} cannot be written"):
                        gcs.filesystem().put_file(str(path), f"{self._target}/{name}")
                    self._sent[name] = state

    def close(self) -> None:
        """Uploads a last time and ends the thread."""
        if self._kept is None:
            return
        self._ended.set()
        try:
            self.flush()
        finally:
            self._kept.cleanup()
            self._kept = None

    def _copy(self) -> None:
        while not self._ended.wait(SECONDS):
            try:
                self.flush()
                self._trouble = ""
            except Exception as error:  # reported once; the flush before the next checkpoint raises it
                text = f"note: logs are not copied ({error}); trying again"
                if text != self._trouble:
                    self._trouble = text
                    print(text, file=sys.stderr, flush=True)

    @staticmethod
    def _state(path: Path) -> tuple[int, int]:
        found = path.stat()
        return found.st_size, found.st_mtime_ns
