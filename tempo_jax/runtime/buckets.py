"""Static shapes: the lengths that programs are compiled for.

Within a bucket the question, the number of frames and the budget may change without compilation. Frame sizes
have no buckets: each size of video or image compiles programs of its own, and `ProgramCache` bounds how many
a long-running server keeps.
"""

import contextlib
import ctypes
import gc
import threading
from collections.abc import Hashable, Sequence
from typing import Any

import jax

PROMPT_ALIGNMENT = 128  # compressor prompts and LLM text are padded to multiples of this
# A question with its memory tokens, by platform where not the same: on CPUs time is in proportion to rows.
QUESTION_ALIGNMENT = {"cpu": 64}
SEGMENT_BUCKETS = (8, 16, 32, 64, 128, 256)  # segments of a video; beyond, multiples of the last
# Steps of a quarter of an octave: at most a fourth of a prompt is padding.
PREFILL_BUCKETS = (
    256, 384, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168,
    8192, 10240, 12288, 14336, 16384, 20480, 24576, 28672, 32768,
)  # fmt: skip
# Decoding costs little more with a longer cache, and answers are decoded together where caches are equal.
CACHE_BUCKETS = (512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 10240, 12288, 16384, 24576, 32768)
NEW_TOKEN_BUCKETS = (64, 256, 1024)
TAG_TOKENS = 12  # a time tag: "<", digits, ".", digit, " seconds", ">"


def round_up_to(length: int, step: int) -> int:
    """The smallest multiple of `step` that is at least `length` (and at least one step)."""
    return max(1, -(-length // step)) * step


def pick_bucket(length: int, sizes: tuple[int, ...]) -> int:
    """The smallest of `sizes` that is at least `length`; beyond them, a multiple of the largest."""
    return next((size for size in sizes if size >= length), round_up_to(length, sizes[-1]))


def question_alignment() -> int:
    """What a question with its memory tokens is padded to multiples of."""
    return QUESTION_ALIGNMENT.get(jax.default_backend(), PROMPT_ALIGNMENT)


def next_power_of_two(length: int) -> int:
    return 1 << (max(1, length) - 1).bit_length()


MAX_SIZES = 32


class ProgramCache:
    """Bounds the compiled programs of jitted functions: all are dropped after every `max_sizes` new sizes.

    JAX drops a function's programs together, not one by one, so that a size in use may be compiled again.
    """

    def __init__(self, functions: Sequence[Any], max_sizes: int = MAX_SIZES):
        self._functions, self._max_sizes = functions, max_sizes
        self._sizes: set[Hashable] = set()
        self._lock = threading.Lock()

    def use(self, size: Hashable) -> bool:
        """Registers a size before anything is compiled for it; returns whether it is new."""
        with self._lock:
            if size in self._sizes:
                return False
            if len(self._sizes) >= self._max_sizes:
                for function in self._functions:
                    function.clear_cache()
                self._sizes.clear()
                _release_memory()
            self._sizes.add(size)
            return True


def _release_memory() -> None:
    """Returns freed memory to the operating system, which glibc would keep."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
