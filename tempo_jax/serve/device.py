"""Who may compute: one thread at a time, answers before openings, which go chunk by chunk between them.

A question about an open video thus waits for one chunk of another video at most, and now and then for a
second one: while answers follow each other without a pause, openings get OPENINGS_SHARE of the time.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

OPENINGS_SHARE = 0.2
MOST_AHEAD_SECONDS = 10.0  # of its share that an opening can have had in advance, by one slow chunk
POLL_SECONDS = 0.1  # how soon a thread notices that nobody waits for it any more


class Device:
    """The right to compute. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = False
        self._answers = 0  # threads that wait to answer
        self._turns: list[Turn] = []  # openings that wait, each for its next slice
        self._owed = 0.0  # seconds of their share that openings have yet to get; below 0: had in advance

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Waits for the slice under way, and for one more if openings have had less than their share."""
        with self._changed:
            self._answers += 1
            self._changed.wait_for(lambda: not self._taken and not (self._turns and self._owed > 0))
            self._answers -= 1
            self._taken = True
        began = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                if self._turns:
                    share = OPENINGS_SHARE / (1 - OPENINGS_SHARE)
                    self._owed += share * (time.monotonic() - began)
                self._changed.notify_all()

    def _next(self, turn: "Turn") -> bool:
        first = min(self._turns, key=lambda other: other.slices)  # of equals the one that came first
        return not self._taken and first is turn and (not self._answers or self._owed > 0)


class Turn:
    """An opening's right to compute, from `take` to `give`, a slice at a time; they take turns.

    cancelled: asked while it waits; `check` is called as soon as it is true, and must raise.
    """

    def __init__(self, device: Device, cancelled: Callable[[], bool]):
        self._device, self._cancelled = device, cancelled
        self._held, self._began = False, 0.0
        self.slices: int | None = None  # so many it has had, counted from where the others stood at its start

    def take(self, check: Callable[[], None]) -> None:
        """Waits for the next slice."""
        device = self._device
        with device._changed:
            if self.slices is None:
                self.slices = min((turn.slices for turn in device._turns), default=0)
            device._turns.append(self)
            try:
                while not device._next(self):
                    device._changed.wait(POLL_SECONDS)
                    if self._cancelled():
                        check()
                device._taken = self._held = True
                self.slices += 1
            finally:
                device._turns.remove(self)
                device._changed.notify_all()
        self._began = time.monotonic()

    def give(self) -> bool:
        """Ends the slice; whether one was held."""
        if not self._held:
            return False
        device = self._device
        with device._changed:
            device._taken = self._held = False
            used = time.monotonic() - self._began
            # Time that no answer wanted is not counted.
            device._owed = max(-MOST_AHEAD_SECONDS, device._owed - used) if device._answers else 0.0
            device._changed.notify_all()
        return True
