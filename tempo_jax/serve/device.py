"""Scheduling of the device: one thread at a time, for one slice of work; answers before openings.

Answers give the device back between slices: the reading of one chunk, or a few tokens. Next is the one that
has had the least so far, in steps of QUANTUM_SECONDS, so that a short answer does not wait for the end of a
long one while answers of like length still end one after the other. A question about an open video thus
waits for one slice at most, and now and then for a second one: while answers follow each other without a
pause, openings get OPENINGS_SHARE of the time.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

OPENINGS_SHARE = 0.2
MOST_AHEAD_SECONDS = 10.0  # of its share that an opening can have had in advance, by one slow chunk
QUANTUM_SECONDS = 0.5  # that an answer may compute before newer ones come first
MOST_QUANTA = 3  # that count; of those that have had more, the one with the least comes first
PATIENCE_SECONDS = 2.0  # since its last quantum, which count as much as one not had: none waits for ever
POLL_SECONDS = 0.1  # delay until a thread notices that its requests were cancelled


class Device:
    """The right to compute. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = False
        self._waiting: list[Turn] = []
        self._numbers = 0  # of answers, in the order in which they came
        self._owed = 0.0  # seconds of their share that openings have yet to get; below 0: had in advance

    @contextlib.contextmanager
    def answering(self) -> Iterator["Answering"]:
        """The first slice of an answer; the turn may be given and taken within, and is given at the end."""
        turn = Answering(self, lambda: False)
        turn.take(lambda: None)
        try:
            yield turn
        finally:
            turn.give()

    @property
    def _answers(self) -> int:
        return sum(turn.answers for turn in self._waiting)

    @property
    def _openings(self) -> int:
        return len(self._waiting) - self._answers

    def _next(self, turn: "Turn") -> bool:
        openings = self._openings > 0 and (not self._answers or self._owed > 0)
        of_its_kind = [other for other in self._waiting if other.answers is not openings]
        first = min(of_its_kind, key=lambda other: other.rank())  # of equals the one that came first
        return not self._taken and first is turn


class Turn:
    """An opening's right to compute, from `take` to `give`, a slice at a time; they take turns.

    cancelled: asked while it waits; `check` is called as soon as it is true, and must raise.
    """

    answers = False

    def __init__(self, device: Device, cancelled: Callable[[], bool]):
        self._device, self.cancelled = device, cancelled
        self._held, self._began = False, 0.0
        self.slices: int | None = None  # so many it has had, counted from where the others stood at its start

    def rank(self) -> tuple:
        """The lowest of a kind comes next."""
        return (self.slices,)

    def take(self, check: Callable[[], None], is_over: Callable[[], bool] = lambda: False) -> None:
        """Waits for the next slice; for none once `is_over`: others have computed what it was for."""
        device = self._device
        with device._changed:
            if self.slices is None:
                alike = [turn.slices for turn in device._waiting if turn.answers is self.answers]
                self.slices = min(alike, default=0)
            device._waiting.append(self)
            try:
                while not device._next(self):
                    device._changed.wait(POLL_SECONDS)
                    if self.cancelled():
                        check()
                    if is_over():
                        return
                device._taken = self._held = True
                self.slices += 1
            finally:
                device._waiting.remove(self)
                device._changed.notify_all()
        self._began = time.monotonic()

    def give(self) -> bool:
        """Ends the slice; whether one was held."""
        if not self._held:
            return False
        device = self._device
        with device._changed:
            device._taken = self._held = False
            self._account(time.monotonic() - self._began)
            device._changed.notify_all()
        return True

    def _account(self, used: float) -> None:
        device = self._device
        # Time that no answer wanted is not counted.
        device._owed = max(-MOST_AHEAD_SECONDS, device._owed - used) if device._answers else 0.0


class Answering(Turn):
    """An answer's. used: seconds it has computed."""

    answers = True

    def __init__(self, device: Device, cancelled: Callable[[], bool]):
        super().__init__(device, cancelled)
        self.used = 0.0
        self._quantum_began = time.monotonic()
        with device._changed:
            device._numbers += 1
            self._number = device._numbers

    def rank(self) -> tuple:
        quanta = min(MOST_QUANTA, int(self.used / QUANTUM_SECONDS))
        waited = int((time.monotonic() - self._quantum_began) / PATIENCE_SECONDS)
        return quanta - waited, self.used if quanta == MOST_QUANTA else 0.0, self._number

    def _account(self, used: float) -> None:
        if int(self.used / QUANTUM_SECONDS) < int((self.used + used) / QUANTUM_SECONDS):
            self._quantum_began = time.monotonic()
        self.used += used
        if self._device._openings:
            self._device._owed += OPENINGS_SHARE / (1 - OPENINGS_SHARE) * used
