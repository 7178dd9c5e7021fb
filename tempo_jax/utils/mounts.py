"""The file system that a path is on: whether folders are renamed there, and whether files may be mapped."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

# File systems, as /proc/self/mountinfo names them, that keep folders as prefixes of names.
OBJECT_MOUNTS = ("fuse.gcsfuse", "fuse.s3fs", "fuse.rclone", "fuse.goofys", "fuse.geesefs")
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "beegfs", "gpfs", "afs")
_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\(\d{3})")  # spaces and the like in names


def renames_folders(path: str | os.PathLike) -> bool:
    """Whether a folder is renamed atomically: not on mounts of object storage."""
    return file_system(path) not in OBJECT_MOUNTS


def may_map(path: str | os.PathLike) -> bool:
    """Whether files are read by mapping them into memory, which spares a copy.

    Not over a network: where it fails, a read is an error, but a mapped page ends the process (SIGBUS).
    """
    kind = file_system(path)
    return kind not in NETWORK and not kind.startswith("fuse.")


def is_mount_point(folder: Path) -> bool:
    """Whether a file system is mounted on a folder, or another folder bound to it."""
    return any(place == str(folder) for place, _ in _mounted()) or os.path.ismount(folder)


def file_system(path: str | os.PathLike) -> str:
    """The type of the file system that a path is on; "" where the system does not say."""
    place, kind, longest = os.path.realpath(path), "", -1
    for mount, mounted in _mounted():
        mount = mount.rstrip("/")
        # The last of those mounted on one folder is the one that is seen.
        if (place == mount or place.startswith(mount + "/")) and len(mount) >= longest:
            kind, longest = mounted, len(mount)
    return kind


def _mounted() -> Iterator[tuple[str, str]]:
    """Yields (folder, type) of each mount."""
    with contextlib.suppress(OSError):
        for line in _MOUNTS.read_text().splitlines():
            words = line.split(" ")
            yield _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), words[4]), words[words.index("-") + 1]
