"""Turns an abort of jax.distributed, which ends a process in C++ when it loses another one, into one line.

No Python callback can replace the abort (its status type has no Python counterpart in jaxlib 0.10), so
SIGABRT is caught, and the text that was written to standard error before it is parsed.
"""

import contextlib
import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

_FATAL = re.compile(rb"^F\d{4} .*client\.h|^F\d{4} .*[Cc]oordination")
_NOISE = re.compile(rb"^\[Gloo\] |^[IWE]\d{4} .*([Cc]oordination|preemption)")
_HEADER = re.compile(rb"^[IWEF]\d{4} ")
_UNHEALTHY = re.compile(r"stopped sending heartbeats\):\s*\n((?:[^\n]*\d[^\n]*\n)+?)The task")
_lock = threading.Lock()


class _StderrFilter:
    """Passes standard error on, and holds back the lines of a fatal error."""

    def __init__(self) -> None:
        self.fatal: list[bytes] = []
        self._real = os.dup(2)
        reading, writing = os.pipe()
        os.dup2(writing, 2)
        os.close(writing)
        self._python = sys.stderr
        # Python writes to the real stderr: the last lines of a process would be lost in the pipe.
        sys.stderr = os.fdopen(os.dup(self._real), "w", buffering=1, errors="replace")
        self._thread = threading.Thread(target=self._pump, args=(reading,), name="stderr", daemon=True)
        self._thread.start()

    def _pump(self, reading: int) -> None:
        quiet_until = 0.0
        with os.fdopen(reading, "rb") as lines:
            for line in lines:
                if self.fatal or _FATAL.search(line):
                    self.fatal.append(line)
                elif _NOISE.search(line):
                    quiet_until = time.monotonic() + 0.2  # the rest of the message follows at once
                elif _HEADER.search(line) or time.monotonic() > quiet_until:
                    os.write(self._real, line)

    def restore(self) -> None:
        os.dup2(self._real, 2)  # closes the pipe, unless a child process has it
        self._thread.join(timeout=1)
        sys.stderr.flush()
        sys.stderr = self._python
        if not self._thread.is_alive():
            os.close(self._real)


@contextlib.contextmanager
def as_messages(prog: str, end: Callable[[str, str], None]) -> Iterator[None]:
    """Calls end(prog, message), which must end the process, in place of such an abort."""
    errors = _StderrFilter()

    def aborted(number: int) -> None:
        with _lock:
            time.sleep(0.2)  # until the last lines have arrived
            text = b"".join(errors.fatal).decode(errors="replace")
            if text:
                end(prog, message_of(text))
            libc.signal(number, None)  # another cause: abort as usual
            os.kill(os.getpid(), number)

    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    before = libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        libc.signal(signal.SIGABRT, before)
        errors.restore()


def message_of(text: str) -> str:
    """Explains the fatal message of jax.distributed in one line."""
    again = "rerun the same command on every host to resume"
    if "RegisterTask" in text and "DEADLINE_EXCEEDED" in text:
        return (
            "the other processes did not all come: start the command on every host, with the same "
            "--coordinator and --processes, or wait longer with --wait_seconds"
        )
    if found := _UNHEALTHY.search(text):
        named = ", ".join(re.findall(r"(\d+)\s*$", found[1], re.MULTILINE)) or found[1].strip()
        return f"process {named} ended without an error message (killed, or its host is gone): {again}"
    if "RegisterTask" in text:
        return f"the processes could not be joined ({_reason(text)}): {again}"
    if "Socket closed" in text or "UNAVAILABLE" in text:
        return f"process 0 ended without an error message (killed, or its host is gone): {again}"
    return f"the connection between the processes broke ({_reason(text)}): {again}"


def _reason(text: str) -> str:
    found = re.search(r"absl::Status: (.*)", text)
    return (found[1] if found else text.splitlines()[0])[:200]
