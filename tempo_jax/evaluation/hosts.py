"""What each process of an evaluation did and waited for: a small file of its own, read by the report alone.

workdir/hosts/<process>-<start>.json: {"process", "processes", "host", "began", "last", "videos", "answers",
"wait_seconds", "ended"}; times are seconds since 1970.
"""

import contextlib
import json
import socket
import time
from collections.abc import Sequence
from typing import Any

from tempo_jax.evaluation.rows import Row
from tempo_jax.utils import paths
from tempo_jax.utils.paths import AnyPath

FOLDER = "hosts"
SECONDS = 30.0  # between two notes of the same process


class Note:
    """Of this process, from now on; close says that its part is done."""

    def __init__(self, workdir: AnyPath, process: int, processes: int):
        now = time.time()
        self._path = workdir / FOLDER / f"{process}-{int(now * 1000)}.json"
        self._videos: set[str] = set()
        self._values: dict[str, Any] = {
            "process": process, "processes": processes, "host": socket.gethostname(), "began": now,
            "last": now, "videos": 0, "answers": 0, "wait_seconds": 0.0, "ended": False,
        }  # fmt: skip
        self._written = 0.0
        if not paths.remote(workdir):
            self._path.parent.mkdir(exist_ok=True)

    def answered(self, row: Row) -> None:
        """One more row."""
        self._videos.add(row["video"])
        self._values["videos"], self._values["last"] = len(self._videos), time.time()
        self._values["answers"] += 1
        self._values["wait_seconds"] += row["seconds"].get("wait") or 0.0
        if time.monotonic() - self._written > SECONDS:
            self._write()

    def close(self, ended: bool) -> None:
        self._values["ended"], self._values["last"] = ended, time.time()
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        with contextlib.suppress(OSError):  # a full disk: the rows, which count, tell of it
            paths.write_text(self._path, json.dumps(self._values) + "\n")


def read(workdir: AnyPath) -> list[dict[str, Any]]:
    """A line per process: host, videos, answers, busy and idle seconds, answers per minute.

    idle: waiting for frames, and after its end for the last process of the same start to end.
    """
    found = []
    for name in paths.files(workdir / FOLDER):
        with contextlib.suppress(OSError, ValueError):
            values = json.loads((workdir / FOLDER / name).read_text(encoding="utf-8"))
            if isinstance(values, dict) and "process" in values:
                found.append(values)
    return _table(found)


def _table(notes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    table = []
    last = max((note["last"] for note in notes), default=0.0)
    for process in sorted({note["process"] for note in notes}):
        mine = sorted((n for n in notes if n["process"] == process), key=lambda n: n["began"])
        seconds = sum(note["last"] - note["began"] for note in mine)
        answers = sum(note["answers"] for note in mine)
        # Those that were started together also wait for each other.
        together = [n for n in notes if n["began"] < mine[-1]["last"]]
        tail = max((n["last"] for n in together), default=last) - mine[-1]["last"]
        table.append(
            {
                "process": process,
                "host": mine[-1]["host"],
                "starts": len(mine),
                "videos": sum(note["videos"] for note in mine),
                "answers": answers,
                "seconds": seconds,
                "waited_for_frames": sum(note["wait_seconds"] for note in mine),
                "waited_at_the_end": max(0.0, tail) if mine[-1]["ended"] else None,
                "answers_per_minute": 60 * answers / seconds if seconds > 0 else None,
                "ended": mine[-1]["ended"],
            }
        )
    return table
