"""Where the wall time of a run's process goes."""

import contextlib
import time
from collections.abc import Iterator

KINDS = ("steps", "compile", "restore", "save", "validation", "input")


class Goodput:
    """Seconds by kind since it was made; what no kind has is `steps` inside the loop and left over before."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._loop: float | None = None
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._inside = 0.0  # of the loop, that has another kind

    def loop(self) -> None:
        """The first step begins."""
        self._loop = time.perf_counter()

    def add(self, kind: str, seconds: float) -> None:
        """`kind` took so long."""
        self._seconds[kind] += seconds
        if self._loop is not None:
            self._inside += seconds

    @contextlib.contextmanager
    def spending(self, kind: str) -> Iterator[None]:
        """Inside, time is of this kind."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(kind, time.perf_counter() - began)

    def shares(self) -> dict[str, float]:
        """Of the wall time so far, by kind; they add up to at most 1, the rest is starting and ending."""
        now = time.perf_counter()
        steps = 0.0 if self._loop is None else max(now - self._loop - self._inside, 0.0)
        total = max(now - self._began, 1e-9)
        return {kind: (steps if kind == "steps" else x) / total for kind, x in self._seconds.items()}

    def line(self) -> str:
        """For people."""
        shares = self.shares()
        told = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
        other = max(1 - sum(shares.values()), 0.0)
        return f"wall time: {told}, other {other:.0%} of {time.perf_counter() - self._began:.0f} s"
