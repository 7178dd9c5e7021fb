"""Progress of a run on stderr: a live line in a terminal, else a line every SECONDS_BETWEEN_LINES."""

import sys
import time
from typing import Any

SECONDS_BETWEEN_LINES = 30.0


class ProgressReporter:
    """Counts answers and, where `shown`, reports them."""

    def __init__(self, done: int, total: int, *, shown: bool):
        """`done` of `total` answers existed when this process started."""
        self.done, self.total, self.right = done, total, 0
        self._before, self._started = done, time.monotonic()
        self._shown, self._last = shown, time.monotonic()
        self._bar = self._live() if shown and sys.stderr.isatty() else None

    def _live(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn("answers"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        bar = Progress(*columns, console=Console(stderr=True), transient=True)
        bar.add_task("", total=self.total, completed=self.done)
        bar.start()
        return bar

    def answered(self, right: bool) -> None:
        self.done, self.right = self.done + 1, self.right + right
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, description=self._state())
        elif self._shown and time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            print(f"{self.done}/{self.total} answers, {self._state()}", file=sys.stderr, flush=True)

    def _state(self) -> str:
        answered = self.done - self._before
        rate = (time.monotonic() - self._started) / answered
        left = format_duration((self.total - self.done) * rate)
        return f"{100 * self.right / answered:.1f} % correct, {rate:.2f} s each, ETA {left}"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def format_duration(seconds: float) -> str:
    """Formats seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
