"""Static shapes: every length a program is compiled for comes from here.

Inside a bucket the question, the number of frames and the budget may change and nothing compiles. Only the
sizes of frames have no buckets: videos and images come in any size, and each compiles programs of its own;
those that a long-running server keeps must not grow with all it has ever seen (`ProgramCache`).
"""

import contextlib
import ctypes
import gc
import threading
from collections.abc import Hashable, Sequence
from typing import Any

PROMPT_ALIGNMENT = 128  # compressor prompt rows and LLM text are padded to multiples of this
SEGMENT_BUCKETS = (8, 16, 32, 64, 128, 256)  # segments of a video, then multiples of the last
PREFILL_BUCKETS = (256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 10240, 12288, 16384, 24576, 32768)
NEW_TOKEN_BUCKETS = (64, 256, 1024)
TAG_TOKENS = 12  # a time tag: "<", digits, ".", digit, " seconds", ">"


def round_up_to(length: int, step: int) -> int:
    """The smallest multiple of `step` that is at least `length` (and at least one step)."""
    return max(1, -(-length // step)) * step


def pick_bucket(length: int, sizes: tuple[int, ...]) -> int:
    """The smallest of `sizes` that holds `length`; beyond them, a multiple of the largest."""
    return next((size for size in sizes if size >= length), round_up_to(length, sizes[-1]))


def next_power_of_two(length: int) -> int:
    return 1 << (max(1, length) - 1).bit_length()


MAX_SIZES = 32


class ProgramCache:
    """programs: jitted functions. All of theirs go when more than `most` sizes have come since the last time.

    JAX drops the programs of a function together, not one by one, so a size in use may be compiled once more.
    """

    def __init__(self, programs: Sequence[Any], max_sizes: int = MAX_SIZES):
        self._programs, self._most = programs, max_sizes
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
                _release_memory()
            self._seen.add(size)
            return True


def _release_memory() -> None:
    """What the programs took goes back to the system, where the C library would keep it (glibc)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
