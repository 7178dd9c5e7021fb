"""Progress on stderr: a live display in a terminal, sparse plain lines elsewhere.

A reporter is called as `progress(stage, done, total)`, from any thread; stages may interleave
(decoding runs ahead of computing). A total of 0 means that it is not known yet.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

SECONDS_BETWEEN_LINES = 5.0


class Reporter:
    """Says nothing; what `progress` arguments default to."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        pass

    def close(self) -> None:
        """Take the display away; later calls are ignored. Idempotent."""


class Lines(Reporter):
    """A line every few seconds, so nothing at all for what is quickly done or quickly fails."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self._closed = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        with self._lock:
            early = time.monotonic() - self._last < SECONDS_BETWEEN_LINES
            if self._closed or early or 0 < total <= done:  # what follows shows that a stage is over
                return
            self._last = time.monotonic()
            print(f"{stage} {done}/{total}" if total else f"{stage} {done}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._closed = True


class Live(Reporter):
    """Bars in a terminal, gone without a trace when closed."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict = {}
        self._lock = threading.Lock()
        self._closed = False
        self._bars.start()

    def __call__(self, stage: str, done: int, total: int) -> None:
        with self._lock:
            if self._closed:
                return
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total or None)
            self._bars.update(self._tasks[stage], completed=done, total=total or None)

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._bars.stop()


@contextlib.contextmanager
def reporter() -> Iterator[Reporter]:
    """A reporter that fits stderr, closed at the end."""
    shown = Live() if sys.stderr.isatty() else Lines()
    try:
        yield shown
    finally:
        shown.close()
