"""Entries of XLA's compilation cache: written atomically, verified when read, bounded, and keyed by CPU type.

jax writes an entry in place: a process that is killed meanwhile, or a full disk, leaves one cut off, which
every later start warns of and none replaces. Its key has no CPU features, though programs for CPUs are
machine code: a home folder may be shared by hosts of several kinds. Nor does it bound the folder, unless
jax_compilation_cache_max_size is set, which locks it for every entry. No setting of jax changes these, so its
own classes are extended, as far as they are there.
"""

import contextlib
import functools
import hashlib
import itertools
import os
import platform
import threading
from collections.abc import Callable
from pathlib import Path

from tempo_jax.errors import TempoError
from tempo_jax.utils import gcs, paths

MAX_BYTES = 4 << 30  # of a folder; the entries that were used last stay
_TRIM_EVERY = 32  # new entries

_once = threading.Lock()
_installed = False


def install(say: Callable[[str], None]) -> None:
    """Installs the cache; `say` is called once if an entry cannot be written."""
    global _installed
    with _once:
        if _installed:
            return
        _installed = True
    with contextlib.suppress(ImportError, AttributeError):  # another jax: its own entries do
        from jax._src import cache_key, compilation_cache

        compilation_cache.LRUCache = _whole(compilation_cache, say)
        cache_key.custom_hook = _kind_of_host


def _whole(compilation_cache, say: Callable[[str], None]) -> type:
    reported, written = threading.Event(), itertools.count()

    class WholeEntries(compilation_cache.LRUCache):
        """jax's cache of files."""

        def get(self, key: str) -> bytes | None:
            try:
                value = super().get(key)
            except OSError:
                return None
            if value is None:
                return None
            try:
                compilation_cache.decompress_executable(value)
            except Exception:  # of three libraries: cut off, or a bit flipped
                with contextlib.suppress(OSError):
                    _file(self.path, key).unlink(missing_ok=True)
                return None
            _mark_used(_file(self.path, key))
            return value

        def put(self, key: str, value: bytes) -> None:
            try:
                if self.eviction_enabled:
                    super().put(key, value)
                else:
                    _put(_file(self.path, key), value)
                    if next(written) % _TRIM_EVERY == 0:
                        trim(self.path)
            except (OSError, TempoError) as error:
                if not reported.is_set():
                    reported.set()
                    reason = getattr(error, "strerror", None) or error
                    say(f"note: compiled programs are not kept in {self.path} ({reason})")

    return WholeEntries


def _file(folder: os.PathLike, key: str) -> paths.AnyPath:
    if paths.remote(folder):
        return paths.path("the folder of compiled programs", folder) / f"{key}-cache"
    return Path(os.fspath(folder), f"{key}-cache")


def _mark_used(path: paths.AnyPath) -> None:
    if not paths.remote(path):
        with contextlib.suppress(OSError):  # a folder that may only be read
            os.utime(path)


def trim(folder: os.PathLike, limit: int = MAX_BYTES) -> None:
    """Deletes a folder's least recently used entries until the others take `limit` bytes.

    Other processes may do the same: an entry that is missing is compiled again.
    """
    if paths.remote(folder):
        return
    entries = []
    for path in Path(os.fspath(folder)).glob("*-cache"):
        with contextlib.suppress(OSError):
            status = path.stat()
            entries.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size


def _put(path: paths.AnyPath, value: bytes) -> None:
    """Beside its place, then renamed; in gs:// an object appears whole."""
    if path.exists():
        return
    if paths.remote(path):
        gcs.put_bytes(path, value)
        return
    fresh = path.with_name(f".{os.getpid()}.{threading.get_ident()}.incomplete")
    try:
        fresh.write_bytes(value)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


@functools.cache
def _kind_of_host() -> str:
    """A key of the CPU type, which programs for CPUs depend on; empty on other backends."""
    import jax

    return instructions() if jax.default_backend() == "cpu" else ""


def instructions() -> str:
    """A digest of this CPU's model and features."""
    found = {platform.machine(), platform.processor()}
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        wanted = ("flags", "Features", "model name", "CPU part")
        found |= {line.strip() for line in lines if line.startswith(wanted)}
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()[:16]
