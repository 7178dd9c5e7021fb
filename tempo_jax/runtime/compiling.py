"""Compiles programs while the device is lent to other threads, and counts compilations."""

import threading
from collections.abc import Hashable
from typing import Any

import jax

from tempo_jax.runtime.prefetch import while_waiting

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class CompileCounter:
    """Counts what this process has compiled since this module was imported.

    Attributes:
      count: Programs of any function.
      seconds: Time that their compilation took.
    """

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, seconds: float, **_: Any) -> None:
        if event == COMPILE_EVENT:
            self.count, self.seconds = self.count + 1, self.seconds + seconds


_PRECOMPILED: list["Precompiled"] = []  # all instances; they are module-level functions


class Precompiled:
    """A jitted function that lends the device to other threads while it compiles for new shapes.

    Only threads that can lend the device do (`prefetch.while_waiting`); for others it is the plain function.
    Keyword arguments that are not arrays are static.
    """

    def __init__(self, function: Any):
        self._function = function
        self._known: set[Hashable] = set()
        self._lock = threading.Lock()  # held while it compiles
        self.__wrapped__, self.__doc__ = function, function.__doc__
        _PRECOMPILED.append(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        lend_device = while_waiting.get(None)
        if lend_device is not None:
            self._precompile(lend_device, args, kwargs)
        return self._function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def clear_cache(self) -> None:
        """Drops all compiled programs of the function."""
        with self._lock:
            self._known.clear()
        self._function.clear_cache()

    def _precompile(self, lend_device: Any, args: tuple, kwargs: dict) -> None:
        key = _shapes(args, False), _shapes(kwargs, True)
        if key in self._known:
            return
        with lend_device(), self._lock:
            if key not in self._known:
                self._function.lower(*args, **kwargs).compile()
                self._known.add(key)


def clear_caches() -> None:
    """As jax.clear_caches, and forgets what was precompiled here."""
    for program in _PRECOMPILED:
        program.clear_cache()
    jax.clear_caches()


def _shapes(values: Any, static: bool) -> Hashable:
    """A key of the program that takes these arguments. static: whether non-arrays count by their value."""
    leaves, structure = jax.tree.flatten(values)
    keys = []
    for leaf in leaves:
        if hasattr(leaf, "dtype"):
            keys.append((leaf.shape, leaf.dtype))
        else:
            keys.append(leaf if static else type(leaf))
    return structure, tuple(keys)


COMPILE_COUNTER = CompileCounter()
