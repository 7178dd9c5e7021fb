"""A run's rows: JSON lines, one per answer, appended as they come and read again when a run continues."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tempo_jax.errors import TempoError
from tempo_jax.training import owner
from tempo_jax.utils import paths
from tempo_jax.utils.mirror import Mirror
from tempo_jax.utils.paths import AnyPath

Row = dict[str, Any]
# Why a question has no answer: its video is not there, its video cannot be decoded, or it cannot be asked so.
MISSING, UNDECODABLE, REFUSED = "missing", "undecodable", "refused"
UNANSWERED = (MISSING, UNDECODABLE, REFUSED)
NO_VIDEO = "There is no video"  # what the failures of missing ones begin with


def key(row: Row) -> tuple[str, str]:
    """Which answer a row is: (question, setting)."""
    return row["question"], row["setting"]


def unanswered(row: Row) -> str:
    """One of UNANSWERED; "" for a row that is an answer."""
    failure = row.get("failure", "")
    if not failure:
        return ""
    return row.get("unanswered") or (MISSING if failure.startswith(NO_VIDEO) else UNDECODABLE)


def read(workdir: AnyPath) -> dict[tuple[str, str], Row]:
    """The whole rows that any process has written, by their keys; of one asked again, the answer."""
    found: dict[tuple[str, str], Row] = {}
    folder = paths.fetched(_folder(workdir), lambda name: name.endswith(".jsonl"))
    for file in sorted(folder.glob("*.jsonl")):
        for row in _whole(file):
            if not unanswered(row) or unanswered(found.get(key(row), row)):
                found[key(row)] = row
    return found


class Writer:
    """Appends a process's own rows; each is in the file when `write` returns, in gs:// 30 s later."""

    def __init__(self, workdir: AnyPath, process: int):
        """TempoError where another one writes the same part's: it would cut off what that one writes."""
        name = f"{process}.jsonl"
        if not paths.remote(workdir):
            _folder(workdir).mkdir(parents=True, exist_ok=True)
        self._mirror = Mirror(_folder(workdir), (name,))
        path = self._mirror.folder / name
        self._file = open(path, "ab")  # noqa: SIM115
        if owner.lock(self._file.fileno()) is False:
            self._file.close()
            raise TempoError(
                f"{workdir} is being evaluated by another process, as --process={process} too: wait for it, "
                "give each process its own number, or choose another --workdir"
            )
        whole = sum(map(len, _lines(path)))
        if self._file.tell() > whole:  # killed while it wrote: that answer is asked for again
            self._file.truncate(whole)

    def write(self, row: Row) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        self._mirror.close()


def _folder(workdir: AnyPath) -> AnyPath:
    return workdir / "rows"


def _lines(path: Path) -> list[bytes]:
    """The lines that have an end."""
    return [line + b"\n" for line in path.read_bytes().split(b"\n")[:-1]]


def _whole(path: Path) -> Iterator[Row]:
    for line in _lines(path):
        try:
            row = json.loads(line)
        except ValueError:  # a disk that was full, say
            continue
        if isinstance(row, dict) and {"question", "setting"} <= row.keys():
            yield row
