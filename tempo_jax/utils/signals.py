"""Ctrl-C, SIGTERM and a closed terminal: exceptions, so that what is half-written is taken away.

Orbax writes in threads that an exception does not stop: `held` keeps it back until they have ended.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(BaseException):
    """A signal asked the process to end; like KeyboardInterrupt no Exception, so that nothing catches it."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Stopped` inside, as Ctrl-C raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number, _frame) -> None:
        raise Stopped(number)

    # One that is ignored (nohup) stays so.
    taken = [number for number in STOPPING if signal.getsignal(number) is signal.SIG_DFL]
    before = {number: signal.signal(number, stop) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """The first signal that comes inside is delivered at the end; a second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *STOPPING)}
    before = {number: handler for number, handler in handlers.items() if callable(handler)}
    came: list[int] = []

    def hold(number, frame) -> None:
        if came:
            before[number](number, frame)
        came.append(number)

    for number in before:
        signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            before[came[0]](came[0], None)
