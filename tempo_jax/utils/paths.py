"""Local paths; URLs are refused, of which pathlib would silently make a folder `gs:`."""

import os
import re
from pathlib import Path

from tempo_jax.errors import TempoError

MOUNT = "mount the storage (docs/guides/multi-host.md) and give a path"
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.IGNORECASE | re.DOTALL)


def url(path: str | os.PathLike) -> str:
    """The URL that is given for a path, also where pathlib has made gs:/bucket of it; "" for a path."""
    match = _URL.fullmatch(os.fspath(path))
    return f"{match[1]}://{match[2]}" if match else ""


def check_local(what: str, path: str | os.PathLike) -> None:
    """TempoError for a URL; `what` the path is."""
    if address := url(path):
        raise TempoError(f"{what} {address} is a URL: {MOUNT}")


def local(what: str, path: str | os.PathLike) -> Path:
    """A local path, `~` for the home folder in front (the shell leaves it in --target=~/x)."""
    check_local(what, path)
    return Path(path).expanduser()
