"""The file system that a path is on: whether folders are renamed there, and whether files may be mapped."""

import contextlib
import os
from pathlib import Path

# File systems, as /proc/self/mountinfo names them, that keep folders as prefixes of names.
OBJECT_MOUNTS = ("fuse.gcsfuse", "fuse.s3fs", "fuse.rclone", "fuse.goofys", "fuse.geesefs")
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "beegfs", "gpfs", "afs")
_MOUNTS = Path("/proc/self/mountinfo")


def renames_folders(path: str | os.PathLike) -> bool:
    """Whether a folder is renamed atomically: not on mounts of object storage."""
    return file_system(path) not in OBJECT_MOUNTS


def may_map(path: str | os.PathLike) -> bool:
    """Whether files are read by mapping them into memory, which spares a copy.

    Not over a network: where it fails, a read is an error, but a mapped page ends the process (SIGBUS).
    """
    kind = file_system(path)
    return kind not in NETWORK and not kind.startswith("fuse.")


def file_system(path: str | os.PathLike) -> str:
    """The type of the file system that a path is on; "" where the system does not say."""
    with contextlib.suppress(OSError):
        place = os.path.realpath(path)
        mounts = [line.split(" ") for line in _MOUNTS.read_text().splitlines()]
        # The last of those mounted on one folder is the one that is seen.
        above = [(len(words[4]), n) for n, words in enumerate(mounts) if _is_below(place, words[4])]
        if above:
            words = mounts[max(above)[1]]
            return words[words.index("-") + 1]
    return ""


def _is_below(place: str, mount: str) -> bool:
    mount = mount.replace("\\040", " ").rstrip("/")
    return place == mount or place.startswith(mount + "/")
