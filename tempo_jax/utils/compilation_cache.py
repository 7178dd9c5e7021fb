"""The persistent compilation cache of XLA: a command that runs again does not recompile.

Entries are in $JAX_COMPILATION_CACHE_DIR or a folder of the user's cache; --no-cache leaves them alone. A
program is found by itself, versions, devices, flags and, on CPUs, what instructions there are, so a folder
may be shared and deleted at any time. `whole_entries` has what makes it safe.
"""

import argparse
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tempo_jax.errors import TempoError
from tempo_jax.utils import gcs, paths

FOLDER, ENABLED = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
SHORTEST_SECONDS = "0.1"  # of a compilation whose program is kept
_REQUESTS = "/jax/compilation_cache/compile_requests_use_cache"
_HITS, _SAVED = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/compile_time_saved_sec"


class Counts:
    """Hits and compile requests of this process since the cache was turned on."""

    def __init__(self) -> None:
        self.programs, self.hits, self.saved_seconds = 0, 0, 0.0

    def line(self) -> str:
        """A summary for the user; empty without hits."""
        if not self.hits:
            return ""
        return (
            f"{self.hits} of {self.programs} compiled programs came from {folder()}, "
            f"{self.saved_seconds:.0f} s of compiling (--no-cache does without)"
        )


counts = Counts()
_once = threading.Lock()
_listening = False


def folder() -> Path:
    """The folder of the compilation cache."""
    named = os.environ.get(FOLDER)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    if named and paths.url(named):
        return paths.path(FOLDER, named)
    return Path(named) if named else Path(home) / "tempo_jax" / "xla"


def check_writable() -> None:
    """Makes the folder; TempoError where nothing can be kept in it."""
    path = folder()
    if paths.remote(path):
        gcs.check_writable("the folder of compiled programs", path)
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TempoError(f"{path} cannot be made ({error.strerror})") from error
    if not os.access(path, os.W_OK):
        raise TempoError(f"{path} cannot be written to")


def is_off() -> bool:
    """Whether the user or `turn_off` has turned the cache off."""
    return os.environ.get(ENABLED, "").lower() in ("false", "0", "no", "off")


def turn_off() -> None:
    """Turns the cache off, for this process and its children."""
    os.environ[ENABLED] = "false"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_enable_compilation_cache", False)


def turn_on(say: Callable[[str], None], first: bool = True) -> None:
    """Programs are kept from now on, unless they were turned off or the folder cannot be written to.

    first: whether to say it when the first one is found; otherwise `counts` has what to say.
    """
    if is_off():
        return
    path = folder()
    try:
        check_writable()
    except TempoError as error:
        say(f"note: compiled programs are not kept, since {error}")
        return
    _use(path, say, first)


def _use(path: Path, say: Callable[[str], None], first: bool) -> None:
    global _listening
    os.environ.setdefault(FOLDER, str(path))
    shortest = os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", SHORTEST_SECONDS)
    import jax  # reads these when it is imported for the first time

    from tempo_jax.utils import whole_entries

    whole_entries.install(say)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float(shortest))
    with _once:
        if _listening:
            return
        _listening = True
    jax.monitoring.register_event_listener(lambda event, **_: _count(event, say if first else None))
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **_: _time(event, duration_secs)
    )


def _count(event: str, say: Callable[[str], None] | None) -> None:
    if event == _REQUESTS:
        counts.programs += 1
    elif event == _HITS:
        counts.hits += 1
        if counts.hits == 1 and say is not None:
            with contextlib.suppress(OSError, ValueError):  # a closed stderr
                say(f"compiled programs come from {folder()} (--no-cache does without)")


def _time(event: str, seconds: float) -> None:
    if event == _SAVED:
        counts.saved_seconds += seconds


class NoCache(argparse.Action):
    """--no-cache of a command line."""

    def __init__(self, option_strings, dest, **keywords):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **keywords)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        turn_off()
