"""A run's rows: JSON lines, one per answer, appended as they come and read again when a run continues."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def key(row: Row) -> tuple[str, str]:
    """Which answer a row is: (question, setting)."""
    return row["question"], row["setting"]


def read(workdir: Path) -> dict[tuple[str, str], Row]:
    """Every whole row that any process has written, by its key."""
    return {key(row): row for file in sorted(_folder(workdir).glob("*.jsonl")) for row in _whole(file)}


class Writer:
    """Appends a process's own rows; each is in the file when `write` returns."""

    def __init__(self, workdir: Path, process: int):
        path = _folder(workdir) / f"{process}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")  # noqa: SIM115
        whole = sum(map(len, _lines(path)))
        if self._file.tell() > whole:  # killed while it wrote: that answer is asked for again
            self._file.truncate(whole)

    def write(self, row: Row) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _folder(workdir: Path) -> Path:
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
