"""How a folder becomes complete: by a rename, or by a file that is written last.

Renaming a folder is atomic on disks and NFS. In gs://, and on mounts of object storage, where it copies file
after file or is refused, a folder is written in its place, and the file without which it does not load is
written last (`folders.LAST`, Orbax's commit_success.txt). Renaming a file is atomic on these mounts, too.
"""

import argparse
import contextlib
import os
from pathlib import Path
from typing import Any

from tempo_jax.utils import paths

AUTO, MARKER = "auto", "marker"
COMMITS = (AUTO, MARKER)
# File systems, as /proc/self/mountinfo names them, that keep folders as prefixes of names.
OBJECT_MOUNTS = ("fuse.gcsfuse", "fuse.s3fs", "fuse.rclone", "fuse.goofys", "fuse.geesefs")
_MOUNTS = Path("/proc/self/mountinfo")


def by_marker(target: Any, commit: str = AUTO) -> bool:
    """Whether a folder is written in place and becomes complete by a file that is written last."""
    if paths.remote(target) or commit == MARKER:
        return True
    return _file_system(Path(target)) in OBJECT_MOUNTS


def add_commit(parser: argparse.ArgumentParser) -> None:
    """The option of the commands that write folders."""
    parser.add_argument(
        "--commit",
        choices=COMMITS,
        default=AUTO,
        help="marker: write the target in its place and the file without which it does not load last, where "
        "folders are not renamed atomically (auto: in gs:// and on mounts of gcsfuse and the like)",
    )


def _file_system(path: Path) -> str:
    """The type of the file system that a path is on; "" where the system does not say."""
    with contextlib.suppress(OSError):
        place = os.path.realpath(path)
        found = [line.split(" ") for line in _MOUNTS.read_text().splitlines()]
        # The last of those mounted on one folder is the one that is seen.
        inside = [(len(words[4]), n) for n, words in enumerate(found) if _is_below(place, words[4])]
        if inside:
            words = found[max(inside)[1]]
            return words[words.index("-") + 1]
    return ""


def _is_below(place: str, mount: str) -> bool:
    mount = mount.replace("\\040", " ").rstrip("/")
    return place == mount or place.startswith(mount + "/")
