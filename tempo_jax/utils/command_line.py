"""The parser, exit statuses and stderr lines of all command lines. Imports no slow module."""

import argparse
import atexit
import contextlib
import math
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from tempo_jax.errors import TempoError

STOPPED = "stopped by {signal}; nothing is left of what was being written"
MOST = 2**31 - 1  # largest int32: the bound of every number of a command line
SAMPLINGS = ("time", "index")
SAMPLING_HELP = (
    "of videos whose frame rate varies: evenly in time at the frames' own times (time, the default) "
    "or by frame number at the average rate, as released (index)"
)


class Parser(argparse.ArgumentParser):
    """argparse with one-line usage errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def number(kind: type, low: float, open_end: bool = False) -> Callable[[str], Any]:
    """An argparse type: an int32 or finite float that is at least `low` (or above it)."""
    type_name = "a whole number" if kind is int else "a number"
    bound = f"{'above' if open_end else 'of at least'} {low:g}"

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        in_range = low < value if open_end else low <= value
        if not in_range:  # NaN is in no range
            raise argparse.ArgumentTypeError(f"{text!r} is not {type_name} {bound}")
        if value > MOST:
            raise argparse.ArgumentTypeError(f"{text!r} is above {MOST}, the most there can be")
        return value

    return parse


def utf8_stdout() -> None:
    """Makes stdout UTF-8, as JSON is, whatever the terminal's encoding."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # file names need not be valid UTF-8


def run(prog: str, command: Callable[[], int], interrupted: str = "") -> int:
    """Runs a command and reports its errors in one line.

    Args:
      prog: the program's name, which begins the line.
      command: returns its exit status.
      interrupted: message for Ctrl-C; empty: none.

    Returns:
      The exit status: that of `command`, or 1 internal error, 2 usage error or invalid input, 75 temporary
      failure, 130 interrupted.
    """
    try:
        return command()
    except TempoError as error:
        say(f"{prog}: {error}")
        return error.status
    except KeyboardInterrupt:
        if interrupted:
            say(f"{prog}: {interrupted.format(signal='Ctrl-C')}")
        return 130
    except Exception as error:
        if os.environ.get("TEMPO_JAX_TRACEBACK"):
            raise
        say(f"{prog}: {internal_error(error)}")
        return 1


def run_on_cpu(prog: str, command: Callable[[], int], stopped_words: str = STOPPED) -> int:
    """Runs a command that converts or prepares: on the CPU, and with system errors reported as invalid input.

    A signal ends it with one line, after its incomplete output is removed: 130 for Ctrl-C, 143 for
    SIGTERM, 129 for a terminal that closes.
    """
    from tempo_jax.utils import failures, signals

    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # leaves accelerators to other processes

    def refusals() -> int:
        with failures.report_system_errors():
            return command()

    try:
        with signals.raising():
            return run(prog, refusals, interrupted=stopped_words)
    except signals.Stopped as stopped:
        say(f"{prog}: {stopped_words.format(signal=stopped)}")
        return stopped.status


def leave(status: int) -> NoReturn:
    """Ends the process; after a failure without waiting for other threads.

    Those of Orbax wait for more than ten minutes for signals of a save whose first request was refused.
    """
    waiting = [thread for thread in threading.enumerate() if not thread.daemon]
    if status and waiting != [threading.main_thread()]:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def internal_error(error: Exception) -> str:
    first_line = (str(error).strip().splitlines() or ["no message"])[0]
    return (
        f"internal error: {type(error).__name__}: {first_line} "
        "(this is a bug; TEMPO_JAX_TRACEBACK=1 shows where it happened)"
    )
