"""Bounds how many programs are kept that depend on the size of a video's frames.

Videos and images come in any size, and each compiles programs of its own; those that a long-running server
keeps must not grow with all it has ever seen.
"""

import contextlib
import ctypes
import gc
import threading
from collections.abc import Hashable, Sequence
from typing import Any

MOST_SIZES = 32


class ProgramCache:
    """programs: jitted functions. All of theirs go when more than `most` sizes have come since the last time.

    JAX drops the programs of a function together, not one by one, so a size in use may be compiled once more.
    """

    def __init__(self, programs: Sequence[Any], most: int = MOST_SIZES):
        self._programs, self._most = programs, most
        self._seen: set[Hashable] = set()
        self._lock = threading.Lock()

    def use(self, size: Hashable) -> bool:
        """Called before anything is compiled for a size; whether it is new."""
        with self._lock:
            if size in self._seen:
                return False
            if len(self._seen) >= self._most:
                for program in self._programs:
                    program.clear_cache()
                self._seen.clear()
                _give_back()
            self._seen.add(size)
            return True


def _give_back() -> None:
    """What the programs took goes back to the system, where the C library would keep it (glibc)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
