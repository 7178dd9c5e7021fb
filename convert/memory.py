"""Settings of glibc's allocator for large temporary arrays; no effect elsewhere."""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of mallopt(3)


def reuse() -> None:
    """Makes glibc keep one heap and reuse freed buffers, for a process that only converts.

    Tensorstore's threads take a buffer for every chunk they write. Left alone, each is mapped anew, and the
    kernel clears its pages: a third of the processor time of a conversion.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 64 << 20), (M_TRIM_THRESHOLD, 512 << 20)):
            libc.mallopt(option, value)


def give_back() -> None:
    """Gives freed write buffers back to the system: glibc keeps up to a whole array of them otherwise."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
