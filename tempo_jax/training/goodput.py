"""Goodput: how the wall time of a training process divides into steps, compilation, saves and stalls."""

import contextlib
import time
from collections.abc import Iterator

KINDS = ("steps", "compile", "restore", "save", "validation", "input")


class Goodput:
    """Counts seconds by kind; time in the loop that no other kind has counts as `steps`."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._loop: float | None = None
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._inside = 0.0  # seconds of the loop that have another kind

    def loop(self) -> None:
        """Marks the start of the training loop."""
        self._loop = time.perf_counter()

    def add(self, kind: str, seconds: float) -> None:
        """Adds seconds to a kind."""
        self._seconds[kind] += seconds
        if self._loop is not None:
            self._inside += seconds

    @contextlib.contextmanager
    def spending(self, kind: str) -> Iterator[None]:
        """Counts the time inside the context as this kind."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(kind, time.perf_counter() - began)

    def shares(self) -> dict[str, float]:
        """Returns the fraction of the wall time so far by kind; start-up and shutdown are the rest."""
        now = time.perf_counter()
        steps = 0.0 if self._loop is None else max(now - self._loop - self._inside, 0.0)
        total = max(now - self._began, 1e-9)
        return {kind: (steps if kind == "steps" else x) / total for kind, x in self._seconds.items()}

    def line(self) -> str:
        """Formats the fractions as a log line."""
        shares = self.shares()
        kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
        other = max(1 - sum(shares.values()), 0.0)
        return f"wall time: {kinds}, other {other:.0%} of {time.perf_counter() - self._began:.0f} s"
