"""Decodes videos in a child process, which isolates the server from hostile files.

Children are forked from a small process of their own (multiprocessing's forkserver) that has PyAV
and Pillow loaded but neither jax nor threads, so that one starts in milliseconds. As ever with
multiprocessing, a script that serves needs its `if __name__ == "__main__":`.
"""

import contextlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.connection import Connection

import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.runtime import prefetch
from tempo_jax.serve import decoder_child
from tempo_jax.video.sources import Source

POLL_SECONDS = 0.05  # delay until a cancelled request ends its decoder
_children: set = set()  # processes that are decoding


class Cancelled(Exception):
    """All requests for the video were cancelled."""


def warm_up() -> None:
    """Starts the process that children are forked from, so that the first video need not wait for it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([decoder_child.__name__])
    forkserver.ensure_running()


def kill_all() -> None:
    """Ends all decoding at once, for a server that does so too."""
    for child in list(_children):
        with contextlib.suppress(ValueError):  # it has just been closed
            child.kill()


@contextlib.contextmanager
def decoding(
    request: decoder_child.Request,
    cancelled: Callable[[], bool] = lambda: False,
    on_frame: Callable[[int, np.ndarray], None] | None = None,
) -> Iterator[Source]:
    """The opened video, readable once and within the block.

    on_frame: called with each frame's number and pixels as it is read. Raises TempoError for what
    cannot be decoded within the limits, and Cancelled as soon as `cancelled()`, here as well as
    from the source's frames.
    """
    context = multiprocessing.get_context("forkserver")
    parent_pipe, child_pipe = context.Pipe(duplex=False)
    child = context.Process(target=decoder_child.main, args=(child_pipe, request), daemon=True)
    child.start()
    _children.add(child)
    child_pipe.close()
    reader = _Reader(parent_pipe, request, cancelled)
    try:
        header = reader.json()
        arrays = {
            "indices": np.array(header.pop("indices"), np.int64),
            "seconds": np.array(header.pop("seconds")),
        }
        yield Source(name=request.name, iter_frames=reader.frames(on_frame), **arrays, **header)
    finally:
        _children.discard(child)
        child.kill()
        parent_pipe.close()
        child.join()
        child.close()


class _Reader:
    """One child's pipe."""

    def __init__(self, pipe: Connection, request: decoder_child.Request, cancelled: Callable[[], bool]):
        self._pipe, self._request, self._cancelled = pipe, request, cancelled
        self._remaining_seconds = (
            request.limits.decode_seconds
        )  # only waiting counts, not what the device takes

    def json(self) -> dict:
        """The next message, which must be JSON."""
        if self._message() != decoder_child.JSON:
            raise TempoError(decoder_child.limit_message(self._request.name, self._request.limits))
        return self._checked(self._message())

    def frames(self, on_frame: Callable[[int, np.ndarray], None] | None):
        """The `iter_frames` of a Source."""

        def read(source: Source) -> Iterator[np.ndarray]:
            for number in range(source.num_frames):
                kind, message = self._message(), self._message()
                if kind != decoder_child.FRAME:
                    self._checked(message)
                    raise TempoError(decoder_child.limit_message(self._request.name, self._request.limits))
                frame = np.frombuffer(message, np.uint8).reshape(source.height, source.width, 3)
                if on_frame is not None:
                    on_frame(number, frame)
                yield frame
            source.warnings[:] = self.json()["warnings"]

        return read

    def _wait(self) -> None:
        """Until there is a message."""
        ready = False
        while not ready:
            started = time.monotonic()
            ready = self._pipe.poll(min(POLL_SECONDS, max(0.0, self._remaining_seconds)))
            self._remaining_seconds -= time.monotonic() - started
            if self._cancelled():
                raise Cancelled
            if self._remaining_seconds < 0:
                raise TempoError(
                    f"Decoding {self._request.name} took longer than the "
                    f"{self._request.limits.decode_seconds:.0f} seconds allowed: cut it or scale it down."
                )

    def _checked(self, message: bytes) -> dict:
        value = json.loads(message)
        if "error" in value:
            raise TempoError(value["error"])
        return value

    def _message(self) -> bytes:
        try:
            if self._cancelled():
                raise Cancelled
            if self._remaining_seconds < 0 or not self._pipe.poll(0):
                with prefetch.while_waiting.get()():
                    self._wait()
            return self._pipe.recv_bytes()
        except (EOFError, ConnectionError) as error:
            raise TempoError(decoder_child.limit_message(self._request.name, self._request.limits)) from error
