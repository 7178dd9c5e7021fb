"""System errors, such as a full disk, as one-line errors of every command.

Python raises OSError; tensorstore and Orbax, which write the arrays, raise ValueErrors and others that
only mention the system's error number, several calls down.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tempo_jax.errors import TempoError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ADVICE = {
    errno.ENOSPC: "free some space or choose another place",
    errno.EDQUOT: "free some of the quota or choose another place",
    errno.EFBIG: "the file system takes no file of this size; choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.EACCES: "choose another place or ask for the right to use it",
    errno.EPERM: "choose another place or ask for the right to use it",
    errno.ENOENT: "it is missing, or vanished while it was used",
    errno.ESTALE: "it vanished while it was used",
    errno.EIO: "the disk or the network behind it fails",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EBUSY: "another program holds it",
    errno.EEXIST: "a file stands where a folder is needed; choose another place",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another place",
    errno.EISDIR: "a folder stands where a file is needed; choose another place",
    errno.ELOOP: "its symbolic links go in a circle",
}
# What mounts of object storage answer to the rename of a folder; gcsfuse: EMFILE.
_NO_RENAMES = (errno.EMFILE, errno.EXDEV, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_CODE = re.compile(r"os_error_code='(\d+)'|\[Errno (\d+)\]|\[OS error (\d+)")
_WORDS = {os.strerror(code): code for code in ADVICE}
_PATH = re.compile(r'"(/[^"]+)"')


class Refusal(NamedTuple):
    """`code`: the system's error number; `path`: what it is about, where that is known.

    `renaming`: whether a rename was refused.
    """

    code: int
    path: str | None
    renaming: bool = False

    def __str__(self) -> str:
        about = f" ({self.path})" if self.path else ""
        if self.renaming and self.code in _NO_RENAMES:
            return f"{os.strerror(self.code)}{about}: folders are not renamed there; give --commit=marker"
        advice = f": {ADVICE[self.code]}" if self.code in ADVICE else ""
        return f"{os.strerror(self.code)}{about}{advice}"


def refusal(error: BaseException | None) -> Refusal | None:
    """The system error in an error or its causes; None if there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, TempoError):
            return None  # reported as it is
        if isinstance(error, OSError):
            if error.errno and error.strerror:
                return Refusal(error.errno, _shown(error.filename), error.filename2 is not None)
        elif code := _mentioned(str(error)):
            found = _PATH.findall(str(error))
            return Refusal(code, found[-1] if found else None)
        error = error.__cause__ or error.__context__
    return None


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one it comes from, is a disk (or quota) without space."""
    found = refusal(error)
    return found is not None and found.code in FULL


@contextlib.contextmanager
def report_system_errors(
    where: str | os.PathLike | None = None, temporary: str | os.PathLike | None = None
) -> Iterator[None]:
    """Turns system errors inside into TempoErrors; other errors pass.

    where: what is being written or read, named where the error names nothing, or something in `temporary`.
    """
    try:
        yield
    except TempoError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError):
            raise TempoError(f"the machine has too little memory ({error}): close other programs") from error
        found = refusal(error)
        if found is None:
            from tempo_jax.utils import gcs

            if message := gcs.user_error(error, str(where or "")):
                raise message from error
            raise
        if where and (not found.path or (temporary and found.path.startswith(os.fspath(temporary)))):
            found = found._replace(path=os.fspath(where))
        raise TempoError(str(found)) from error


def _mentioned(text: str) -> int | None:
    """The error number in a message of tensorstore, array_record or Python."""
    if found := _CODE.search(text):
        return int(next(group for group in found.groups() if group))
    return next((code for words, code in _WORDS.items() if words in text), None)


def _shown(path: object) -> str | None:
    return path if path is None else os.fsdecode(path) if isinstance(path, str | bytes | Path) else str(path)
