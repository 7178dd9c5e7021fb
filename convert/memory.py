"""What glibc does with the memory of large arrays that come and go; elsewhere nothing is done."""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of mallopt(3)


def reuse() -> None:
    """For a process of its own: glibc keeps one heap and the buffers that are freed in it.

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
