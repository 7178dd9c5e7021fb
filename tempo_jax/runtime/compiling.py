"""Programs that are compiled while the device is lent to others, and how many have been compiled."""

import threading
from collections.abc import Hashable
from typing import Any

import jax

from tempo_jax.runtime.prefetch import waiting

COMPILED = "/jax/core/compile/backend_compile_duration"


class Programs:
    """What this process has compiled since this module was imported, programs of any function."""

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, seconds: float, **_: Any) -> None:
        if event == COMPILED:
            self.count, self.seconds = self.count + 1, self.seconds + seconds


ALL: list["Apart"] = []  # they are module-level functions


class Apart:
    """A jitted function that is compiled for new shapes before the device is needed for it.

    Called by a thread that can lend the device (`prefetch.waiting`), it lends it for as long as it compiles;
    by any other, it is the function and nothing more. Keyword arguments that are no arrays are static.
    """

    def __init__(self, function: Any):
        self._function = function
        self._known: set[Hashable] = set()
        self._lock = threading.Lock()  # held while it compiles
        self.__wrapped__, self.__doc__ = function, function.__doc__
        ALL.append(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        lend = waiting.get(None)
        if lend is not None:
            self._prepare(lend, args, kwargs)
        return self._function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def clear_cache(self) -> None:
        """As of the function."""
        with self._lock:
            self._known.clear()
        self._function.clear_cache()

    def _prepare(self, lend: Any, args: tuple, kwargs: dict) -> None:
        key = _shapes(args, False), _shapes(kwargs, True)
        if key in self._known:
            return
        with lend(), self._lock:
            if key not in self._known:
                self._function.lower(*args, **kwargs).compile()
                self._known.add(key)


def clear_caches() -> None:
    """As jax.clear_caches, which knows nothing of what is known here."""
    for program in ALL:
        program.clear_cache()
    jax.clear_caches()


def _shapes(values: Any, static: bool) -> Hashable:
    """Equal for arguments that one program takes; static: whether what is no array counts by its value."""
    leaves, structure = jax.tree.flatten(values)
    found = []
    for leaf in leaves:
        if hasattr(leaf, "dtype"):
            found.append((leaf.shape, leaf.dtype))
        else:
            found.append(leaf if static else type(leaf))
    return structure, tuple(found)


PROGRAMS = Programs()
