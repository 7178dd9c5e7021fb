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
    """Reports nothing: the default of `progress` arguments."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        pass

    def close(self) -> None:
        """Take the display away; later calls are ignored. Idempotent."""


class Lines(Reporter):
    """Prints a line every few seconds, hence none for short work.

    in_bytes: counts are bytes; the time left is reported too.
    per_second: the noun of what is counted ("records"): the rate since the first call and the time left are
    reported too.
    """

    def __init__(self, in_bytes: bool = False, per_second: str = "") -> None:
        self._lock = threading.Lock()
        self._last = self._began = time.monotonic()
        self._closed = False
        self._in_bytes, self._per_second = in_bytes, per_second
        self._first: tuple[float, int] | None = None  # what had been done before is no part of the rate

    def __call__(self, stage: str, done: int, total: int) -> None:
        with self._lock:
            self._first = self._first or (time.monotonic(), done)
            early = time.monotonic() - self._last < SECONDS_BETWEEN_LINES
            if self._closed or early or 0 < total <= done:  # what follows shows that a stage is over
                return
            self._last = time.monotonic()
            if self._in_bytes and total:
                seconds_left = (self._last - self._began) * (total - done) / max(done, 1)
                text = f"{stage} {size(done)} of {size(total)}, {duration(seconds_left)} left"
            else:
                text = f"{stage} {done}/{total}" if total else f"{stage} {done}"
                text += self._speed(done, total, *self._first)
            print(text, file=sys.stderr, flush=True)

    def _speed(self, done: int, total: int, began: float, before: int) -> str:
        rate = (done - before) / max(self._last - began, 1e-3)
        if not self._per_second or rate <= 0:
            return ""
        return f", {rate:.1f} {self._per_second}/s, {duration((total - done) / rate)} left"

    def close(self) -> None:
        self._closed = True


class Live(Reporter):
    """Progress bars in a terminal, removed when closed."""

    def __init__(self, in_bytes: bool = False, per_second: str = "") -> None:
        from rich import progress as bars
        from rich.console import Console

        counted = [bars.MofNCompleteColumn(), bars.TimeElapsedColumn()]
        if in_bytes:
            counted = [bars.DownloadColumn(), bars.TransferSpeedColumn(), bars.TimeRemainingColumn()]
        if per_second:

            class Speed(bars.ProgressColumn):
                def render(self, task: bars.Task) -> str:
                    return "" if task.speed is None else f"{task.speed:.1f} {per_second}/s"

            counted = [bars.MofNCompleteColumn(), Speed(), bars.TimeRemainingColumn()]
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            *counted,
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


def size(nbytes: float) -> str:
    """Formats bytes: "12.1 GB"."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.1f} {unit}"
    return f"{nbytes:.0f} bytes"


def duration(seconds: float) -> str:
    """Formats seconds: "45 s", "3 min 20 s", "2 h 5 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextlib.contextmanager
def reporter(in_bytes: bool = False, per_second: str = "") -> Iterator[Reporter]:
    """A reporter that fits stderr, closed at the end; `in_bytes`, `per_second`: as of `Lines`."""
    shown = (Live if sys.stderr.isatty() else Lines)(in_bytes, per_second)
    try:
        yield shown
    finally:
        shown.close()
