"""How a folder becomes complete: by a rename, or by a file that is written last.

Renaming a folder is atomic on disks and NFS. In gs://, and on mounts of object storage, where it copies file
after file or is refused, a folder is written in its place, and the file without which it does not load is
written last (`folders.LAST`, Orbax's commit_success.txt). Renaming a file is atomic on these mounts, too.
"""

import argparse
from typing import Any

from tempo_jax.utils import mounts, paths

AUTO, MARKER = "auto", "marker"
COMMITS = (AUTO, MARKER)


def by_marker(target: Any, commit: str = AUTO) -> bool:
    """Whether a folder is written in place and becomes complete by a file that is written last."""
    if paths.remote(target) or commit == MARKER:
        return True
    return not mounts.renames_folders(target)


def add_commit(parser: argparse.ArgumentParser) -> None:
    """The option of the commands that write folders."""
    parser.add_argument(
        "--commit",
        choices=COMMITS,
        default=AUTO,
        help="marker: write the target in its place and the file without which it does not load last, where "
        "folders are not renamed atomically (auto: in gs:// and on mounts of gcsfuse and the like)",
    )
