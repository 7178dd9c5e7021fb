"""Folders that appear whole or not at all."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from tempo_jax.errors import TempoError
from tempo_jax.paths import check_local


@contextlib.contextmanager
def replacing(target: Path, overwrite: bool) -> Iterator[Path]:
    """A new folder beside `target` that takes its place when the block ends without an exception.

    Every process enters it; process 0 makes, renames and removes. TempoError when `target` exists and
    is not to be overwritten, or is a URL.
    """
    check_local("the target", target)
    target = target.resolve()
    if target.exists() and not overwrite:
        raise TempoError(f"{target} exists already: remove it, choose another folder or pass --overwrite")
    if target.exists() and not target.is_dir():
        raise TempoError(f"{target} is a file: choose another folder")
    fresh, old = (target.with_name(f".{target.name}.{end}") for end in ("incomplete", "replaced"))
    first = jax.process_index() == 0
    if first:
        shutil.rmtree(fresh, ignore_errors=True)  # of an interrupted run
        fresh.mkdir(parents=True)
    _barrier(f"begin {target}")
    try:
        yield fresh
    except BaseException:
        if first:
            shutil.rmtree(fresh, ignore_errors=True)
        raise
    _barrier(f"written {target}")
    if first:
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    _barrier(f"end {target}")


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
