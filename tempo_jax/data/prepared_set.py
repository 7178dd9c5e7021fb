"""A set under preparation, in a folder that all its workers share, and the merge of its finished shards.

plan.json has the identity of the set; parts/<shard>.json, the record of a shard, is written after the shard's
file and marks it as complete. Once all are there, manifest.json sums them up and dataset_info.json, without
which the set does not load, is written last. Any process may merge: the result depends on the records alone.
"""

import collections
import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tempo_jax.data.records import FRAME_COUNTS, SPLIT, features
from tempo_jax.errors import TempoError
from tempo_jax.utils import folders, paths
from tempo_jax.utils.paths import AnyPath

PLAN, PARTS, MANIFEST, INFO = "plan.json", "parts", "manifest.json", "dataset_info.json"
FORMAT = "array_record"


class Unfinished:
    """The folder of an unfinished set: `have` and `put` shards, `merge` when none is missing."""

    def __init__(self, folder: AnyPath, name: str, shards: int):
        self.folder, self._name, self.shards = folder, name, shards
        self._local: tempfile.TemporaryDirectory | None = None
        if paths.remote(folder):  # array_record writes to disks only
            self._local = tempfile.TemporaryDirectory(prefix="tempo_jax-")

    def begin(self, identity: str) -> None:
        """TempoError where another set is being prepared there."""
        plan = self.folder / PLAN
        if not paths.remote(self.folder):
            (self.folder / PARTS).mkdir(parents=True, exist_ok=True)
        if plan.exists():
            if (begun(self.folder) or {}).get("identity") == identity:
                return
            raise TempoError(
                f"{self.folder} holds part of a set that was prepared from other records or with other "
                "options: give those again to resume it, choose another target, or pass --overwrite"
            )
        paths.write_text(plan, json.dumps({"identity": identity, "shards": self.shards}) + "\n")

    def file(self, number: int) -> str:
        """The name of a shard's file, as TFDS has it."""
        return f"{self._name}-{SPLIT}.{FORMAT}-{number:05d}-of-{self.shards:05d}"

    def have(self) -> set[int]:
        """Returns the numbers of the finished shards."""
        found = paths.files(self.folder)
        notes = {int(name[len(PARTS) + 1 : -5]) for name in found if _is_note(name)}
        return {number for number in notes if self.file(number) in found}

    def place(self, number: int) -> Path:
        """Where a shard's file is written before it is put in place."""
        folder = self.folder if self._local is None else Path(self._local.name)
        return folder / f".{self.file(number)}.{socket.gethostname()}.{os.getpid()}.incomplete"

    def put(self, written: Path, note: dict[str, Any]) -> None:
        """Puts a shard in place: the file, then its note."""
        target = self.folder / self.file(note["shard"])
        if self._local is None:
            written.replace(target)
        else:
            from tempo_jax.utils import gcs

            with gcs.report_errors(f"{target} cannot be written"):
                gcs.filesystem().put_file(str(written), os.fspath(target))
            written.unlink()
        paths.write_text(self.folder / PARTS / f"{note['shard']:05d}.json", json.dumps(note) + "\n")

    def notes(self) -> list[dict[str, Any]]:
        """Of all shards, in their order; TempoError where one is damaged."""
        folder = paths.fetched(self.folder / PARTS)
        found = []
        for number in range(self.shards):
            path = folder / f"{number:05d}.json"
            try:
                found.append(json.loads(path.read_text(encoding="utf-8")))
            except ValueError as error:
                raise TempoError(f"{path} is damaged: delete it and rerun the same command") from error
        return found

    def merge(self, identity: str, metadata: dict[str, Any]) -> dict[str, Any]:
        """Writes what makes one set of the shards; returns the sums of their notes."""
        notes = self.notes()
        total = summed(notes)
        if not total["counts"].get("samples"):
            return total
        lines = (json.dumps(bad, ensure_ascii=False) + "\n" for bad in total["skipped"])
        paths.write_text(self.folder / folders.SKIPPED, "".join(lines))
        paths.write_text(self.folder / FRAME_COUNTS, json.dumps(total["frame_counts"]) + "\n")
        kept = ("shard", "jobs", "samples", "bytes", "sha256", "fingerprint")
        shards = [{key: note[key] for key in kept} | {"skipped": len(note["skipped"])} for note in notes]
        values = {"identity": identity, "fingerprint": total["fingerprint"], "shards": shards}
        paths.write_text(self.folder / MANIFEST, json.dumps(values, indent=1) + "\n")
        with paths.staged(self.folder, (INFO,)) as place:  # TFDS writes it last, too
            metadata = metadata | {"counts": total["counts"], "fingerprint": total["fingerprint"]}
            _describe(place, self._name, notes, metadata)
        self.tidy()
        return total

    def tidy(self) -> None:
        """Removes from a whole set what only its workers need, the plan last."""
        paths.remove(self.folder / PARTS)
        if self._local is None:
            for left in self.folder.glob(".*.incomplete"):  # of processes that were killed
                left.unlink(missing_ok=True)
        paths.remove(self.folder / PLAN)

    def close(self) -> None:
        """Removes what this process has started and not put in place."""
        if self._local is not None:
            self._local.cleanup()
        else:
            for left in self.folder.glob(f".*.{socket.gethostname()}.{os.getpid()}.incomplete"):
                left.unlink(missing_ok=True)


def _is_note(name: str) -> bool:
    return name.startswith(f"{PARTS}/") and name.endswith(".json") and name[len(PARTS) + 1 : -5].isdigit()


def summed(notes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the sums over the records of all shards."""
    import hashlib

    counts: collections.Counter[str] = collections.Counter()
    for note in notes:
        counts.update(note["counts"])
    fingerprints = "".join(note["fingerprint"] for note in notes if note["samples"])
    return {
        "counts": dict(counts),
        "skipped": [bad for note in notes for bad in note["skipped"]],
        "frame_counts": [frames for note in notes for frames in note["frame_counts"]],
        "fingerprint": hashlib.sha256(fingerprints.encode()).hexdigest()[:16],
    }


def _describe(folder: Path, name: str, notes: Sequence[dict[str, Any]], metadata: dict[str, Any]) -> None:
    """dataset_info.json, features.json and metadata.json, as TFDS reads them."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import dataset_info, file_adapters, naming, splits

    identity = dataset_info.DatasetIdentity(
        name=name, version=tfds.core.Version("1.0.0"), data_dir=os.fspath(folder), module_name=__name__
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=features(),
        metadata=tfds.core.MetadataDict(metadata),
        disable_shuffling=True,
    )
    info.set_file_format(file_adapters.FileFormat.ARRAY_RECORD)
    template = naming.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, split=SPLIT, filetype_suffix=FORMAT
    )
    split = splits.SplitInfo(
        name=SPLIT,
        shard_lengths=[note["samples"] for note in notes],
        num_bytes=sum(note["counts"].get("bytes", 0) for note in notes),
        filename_template=template,
    )
    info.set_splits(splits.SplitDict([split]))
    info.write_to_directory(folder)


def begun(folder: AnyPath) -> dict[str, Any] | None:
    """Returns the plan of an unfinished set; None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        values = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        return values if isinstance(values, dict) and {"identity", "shards"} <= values.keys() else None
    return None


def finished(target: AnyPath) -> dict[str, Any] | None:
    """Returns the manifest of a finished set; None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        if (target / INFO).is_file():
            values = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
            return values if isinstance(values, dict) else None
    return None


@contextlib.contextmanager
def opened(folder: AnyPath, name: str, shards: int) -> Iterator[Unfinished]:
    """Opens the folder; on exit, what this process left unfinished is removed."""
    found = Unfinished(folder, name, shards)
    try:
        yield found
    finally:
        found.close()
