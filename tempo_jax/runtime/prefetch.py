"""Runs an iterator ahead in a thread, so that the host decodes while the device computes."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
_END = object()

# A context entered while a thread waits for frames: the server lends the device to other threads then.
while_waiting: ContextVar[Callable[[], contextlib.AbstractContextManager]] = ContextVar(
    "waiting", default=contextlib.nullcontext
)


def prefetch(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """Yields the same items, at most `depth` of them computed in advance; errors are raised in order.

    Closing the iterator also closes `items`, which closes a video file.
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def offer(value) -> bool:
        while not stop.is_set():
            try:
                ready.put(value, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work():
        iterator = iter(items)
        try:
            for item in iterator:
                if not offer((item, None)):
                    return
            offer((_END, None))
        except BaseException as error:
            offer((_END, error))
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    thread = threading.Thread(target=work, name="tempo-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item, error = ready.get_nowait()
            except queue.Empty:
                with while_waiting.get()():
                    item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        thread.join()
