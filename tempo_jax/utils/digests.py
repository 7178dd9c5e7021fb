"""Checksums of a checkpoint's array files, which detect corruption on disk or in transfer.

digests.json: {"block_bytes": B, "files": {path: {"bytes": n, "crc32": of its blocks of B bytes, 8 hexadecimal
digits each}}}. CRC-32 finds every flipped bit and all but one in four billion of other damages, and is fast
enough to be computed as files are written and verified on every load; it does not protect against attacks.
"""

import concurrent.futures
import contextlib
import json
import mmap
import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

from tempo_jax.errors import TempoError
from tempo_jax.utils import mounts, paths

FILE = "digests.json"
BLOCK_BYTES = 16 << 20
SAMPLE_BYTES = 1 << 30  # verified by every load: all of a small checkpoint, random blocks of a large one
_READ_BYTES = 256 << 10
_READERS = 8  # of files in gs://


class DigestWriter:
    """Computes digests while a checkpoint is written, of each file while it is in the page cache."""

    def __init__(self) -> None:
        self._taken: dict[str, dict] = {}  # by name: Orbax moves its files to other folders, unchanged

    def take(self, folder: Path) -> None:
        """Computes the digests of the data files that are new in `folder`."""
        for file in folder.rglob("d/*"):
            if file.name not in self._taken:
                self._taken[file.name] = of_file(file)

    def finish(self, folder: paths.AnyPath) -> None:
        """Writes folder/digests.json for folder/params. TempoError where a file vanished meanwhile.

        What was written straight to gs:// is read once more, several files at a time.
        """
        sizes = {f"params/{name}": size for name, size in paths.files(folder / "params").items()}

        def record(name: str) -> dict:
            *_, parent, file = name.split("/")
            known = self._taken.get(file) if parent == "d" else None
            return known if known and known["bytes"] == sizes[name] else of_file(folder / name, sizes[name])

        if left := self._taken.keys() - {name.rpartition("/")[2] for name in sizes}:
            raise TempoError(
                f"{folder / 'params'} lost {len(left)} of its files while it was written: try again"
            )
        with concurrent.futures.ThreadPoolExecutor(_READERS if paths.remote(folder) else 1) as pool:
            names = sorted(sizes, key=lambda name: name.split("/"))
            files = dict(zip(names, pool.map(record, names), strict=True))
        values = {"block_bytes": BLOCK_BYTES, "files": files}
        paths.write_text(folder / FILE, json.dumps(values, separators=(",", ":")) + "\n")


def of_file(path: paths.AnyPath, size: int | None = None) -> dict:
    """The entry of a file in digests.json; its size, where it is known."""
    size = path.stat().st_size if size is None else size
    starts = range(0, size, BLOCK_BYTES)
    crcs = [_crc32(path, start, min(BLOCK_BYTES, size - start)) for start in starts]
    return {"bytes": size, "crc32": "".join(f"{crc:08x}" for crc in crcs)}


def check(folder: str | os.PathLike, *, whole: bool = False) -> bool:
    """Compares the files with their digests; TempoError naming those that differ, False without digests.

    whole: every byte; otherwise at most SAMPLE_BYTES, in blocks that are drawn anew each time.
    """
    place: paths.AnyPath = paths.path("the checkpoint", folder)
    path = place / FILE
    if not path.is_file():
        return False
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        files = values["files"]
        blocks = list(_blocks(files, int(values["block_bytes"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TempoError(
            f"{path} is damaged ({error}): copy the model again, or delete that file to load without it"
        ) from error
    sizes = paths.files(place) if paths.remote(place) else {name: _size(place / name) for name in files}
    wrong = [name for name, record in files.items() if sizes.get(name, -1) != record["bytes"]]
    sound = [block for block in blocks if block[0] not in wrong]
    # gs:// verifies what it sends by itself.
    verified = sound if whole else [] if paths.remote(place) else _drawn(sound)
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        matches = pool.map(lambda block: _crc32(place / block[0], *block[1:3]) == block[3], verified)
        wrong += [block[0] for block, same in zip(verified, matches) if not same]
    if wrong:
        names = sorted(set(wrong))
        remainder = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise TempoError(
            f"the parameters in {place} are damaged or incomplete ({', '.join(names[:5])}{remainder}: not "
            f"the bytes that {FILE} is of): copy or convert the model again"
        )
    return True


def _blocks(files: dict, block_bytes: int) -> Iterator[tuple[str, int, int, int]]:
    """(file, start, bytes, CRC-32) of each block."""
    for name, record in files.items():
        for index, start in enumerate(range(0, int(record["bytes"]), block_bytes)):
            size = min(block_bytes, record["bytes"] - start)
            yield name, start, size, int(record["crc32"][8 * index : 8 * index + 8], 16)


def _drawn(blocks: list[tuple]) -> list[tuple]:
    """All, or as many as SAMPLE_BYTES hold: every process of a pod draws others."""
    if sum(block[2] for block in blocks) > SAMPLE_BYTES:
        random.SystemRandom().shuffle(blocks)
        total, few = 0, []
        for block in blocks:
            total += block[2]
            if total > SAMPLE_BYTES:
                break
            few.append(block)
        return few
    return blocks


def _crc32(path: Path, start: int, size: int) -> int:
    if not paths.remote(path) and start % mmap.ALLOCATIONGRANULARITY == 0 and mounts.may_map(path):
        with (
            path.open("rb") as file,
            contextlib.suppress(ValueError),  # it has become shorter
            mmap.mmap(file.fileno(), size, offset=start, access=mmap.ACCESS_READ) as pages,
        ):
            return zlib.crc32(pages)
    crc, buffer = 0, memoryview(bytearray(min(_READ_BYTES, size)))  # one, in the processor's cache
    with path.open("rb") as file:
        file.seek(start)
        while size and (count := file.readinto(buffer[: min(len(buffer), size)])):
            crc = zlib.crc32(buffer[:count], crc)
            size -= count
    return crc


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
