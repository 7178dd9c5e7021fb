"""One prepared training example: its schema on disk, and both ways between it and a `Sample`.

A prepared data set is a folder that TFDS wrote (array_record, split "train"): dataset_info.json,
features.json, metadata.json (how it was prepared) and the records. TensorFlow is never imported.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tempo_jax.data.samples import Sample
from tempo_jax.errors import TempoError
from tempo_jax.utils import paths

KINDS = ("image", "video", "text")
FORMATS = {"jpeg": "JPEG", "webp": "WEBP"}  # as we name them -> as Pillow does
SPLIT = "train"
FRAME_COUNTS = "frame_counts.json"  # of every sample, so that none must be read for it
FORMAT = 1  # of the records; goes up when older readers would misunderstand them
PREPARE = "python -m tempo_jax.data.prepare"


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How frames are stored: `format` of FORMATS, `quality` 1..100."""

    format: str = "jpeg"
    quality: int = 90

    def __post_init__(self):
        if self.format not in FORMATS:
            raise TempoError(f"Frames cannot be stored as {self.format!r}: choose from {', '.join(FORMATS)}.")
        if not 1 <= self.quality <= 100:
            raise TempoError(f"The quality of stored frames is {self.quality}, but it must be 1 to 100.")

    def encode(self, frame: np.ndarray) -> bytes:
        """uint8 [H, W, 3] as an image file."""
        with io.BytesIO() as file:
            Image.fromarray(frame).save(file, FORMATS[self.format], quality=self.quality)
            return file.getvalue()


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=tuple(FORMATS.values()))


class EncodedFrames:
    """Frames of one size, decoded when they are looked at; otherwise like uint8 [T, H, W, 3]."""

    def __init__(self, files: Sequence[bytes]):
        """`files`: at least one encoded frame. TempoError where the first is no image."""
        self.files = tuple(files)
        with _readable(), _opened(self.files[0]) as first:
            self.shape = (len(self.files), first.height, first.width, 3)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int | slice) -> np.ndarray:
        if isinstance(index, slice):
            chosen = range(len(self))[index]
            frames = [self[i] for i in chosen]
            return np.stack(frames) if frames else np.empty((0, *self.shape[1:]), np.uint8)
        with _readable(), _opened(self.files[index]) as picture:
            return np.asarray(picture.convert("RGB"))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.uint8, copy=False)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for damaged files
        raise TempoError(f"A prepared frame is damaged ({error}): prepare the data set again.") from error


@functools.cache
def features() -> Any:
    """The tfds FeaturesDict of an example."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "kind": tfds.features.Text(doc=f"one of {', '.join(KINDS)}"),
            "conversations": tfds.features.Text(doc="JSON: LLaVA turns"),
            "frames": tfds.features.Sequence(
                tfds.features.Tensor(shape=(), dtype=np.object_), doc="image files, in order"
            ),
            # Text, as records hold floats in 32 bits only and the time tags hang on the last of 64.
            "fps": tfds.features.Text(doc="of the stored frames; empty for image and text"),
            "times": tfds.features.Text(
                doc="JSON: start_seconds, seconds of every frame, or pictures; empty: from 0 on"
            ),
        }
    )


def to_example(
    sample_id: str,
    kind: str,
    conversation: Sequence[dict],
    frames: Iterable[bytes],
    fps: float | None = None,
    times: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """An example of `features`.

    Args:
      sample_id: of the record.
      kind: one of KINDS.
      conversation: LLaVA turns.
      frames: encoded, at the model's size.
      fps: of a video's frames.
      times: fields of `Sample` that say when they are shown, where that is not from 0 on at `fps`.
    """
    if kind not in KINDS or (fps is None) != (kind != "video"):
        raise ValueError(f"an example of kind {kind!r} with fps {fps}")
    return {
        "id": sample_id,
        "kind": kind,
        "conversations": json.dumps(list(conversation), ensure_ascii=False),
        "frames": list(frames),
        "fps": "" if fps is None else repr(float(fps)),
        "times": json.dumps(times) if times else "",
    }


def to_sample(example: dict[str, Any]) -> Sample:
    """The Sample of an example as stored (text in UTF-8); its frames are EncodedFrames."""
    fps = example["fps"].decode()
    times = json.loads(example.get("times", b"") or b"{}")  # sets that were prepared earlier have none
    return Sample(
        frames=EncodedFrames(example["frames"]),
        real_fps=float(fps) if fps else None,
        conversation=json.loads(example["conversations"].decode()),
        start_seconds=times.get("start_seconds", 0.0),
        seconds=np.asarray(times["seconds"]) if "seconds" in times else None,
        pictures=times.get("pictures", False),
    )


class Prepared:
    """A prepared data set as a sequence of Samples; cheap to send to another process.

    Threads may read at the same time. `metadata`: how it was prepared, see prepare.py.
    """

    def __init__(self, folder: str):
        import tensorflow_datasets as tfds

        self.folder, place = folder, paths.path("the prepared data set", folder)
        builder = tfds.builder_from_directory(folder)
        self.metadata: dict = dict(builder.info.metadata or {})
        self.lengths: list[int] = builder.info.splits[SPLIT].shard_lengths
        self.files: list[str] = [str(path) for path in builder.info.splits[SPLIT].filepaths]
        self._known = {*(builder.info.features or ()), "times"} == set(features())
        self._source = builder.as_data_source(split=SPLIT)
        self.name = folder
        self.fingerprint = self.metadata.get("fingerprint") or _fingerprint(self.metadata, self.lengths)
        self.frame_counts = _frame_counts(place, len(self))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        """TempoError where the record cannot be read."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return to_sample(self._source[index])
        except (RuntimeError, OSError, ValueError, LookupError) as error:
            raise TempoError(
                f"Record {index} of the prepared data set {self.folder} cannot be read "
                f"({_first_line(error)}): prepare it again with {PREPARE}."
            ) from error

    def __reduce__(self) -> tuple:
        return Prepared, (self.folder,)

    def check(self) -> None:
        """TempoError unless every file is there, whole as far as its index tells, and of our schema."""
        from array_record.python.array_record_module import ArrayRecordReader

        if not self._known or self.metadata.get("format") != FORMAT:
            raise TempoError(
                f"{self.folder} is a TFDS data set, but was not written by this version's {PREPARE}: "
                "prepare it again."
            )
        if not len(self):
            raise TempoError(
                f"The prepared data set {self.folder} is empty: prepare it again with {PREPARE}."
            )
        for file, length in zip(self.files, self.lengths, strict=True):
            reader = ArrayRecordReader(file)
            if (found := reader.num_records()) != length:
                raise ValueError(f"{Path(file).name} holds {found} of {length} records")
            reader.close()


def _fingerprint(metadata: dict, lengths: Sequence[int]) -> str:
    """Of sets that were prepared before they had one: of how many samples, frames and bytes they have."""
    told = json.dumps([metadata.get("counts"), metadata.get("settings"), list(lengths)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _frame_counts(folder: Path, length: int) -> list[int] | None:
    """How many frames each sample has; None where the set does not say."""
    try:
        counts = json.loads((folder / FRAME_COUNTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    fits = isinstance(counts, list) and len(counts) == length
    return counts if fits and all(isinstance(count, int) for count in counts) else None


def open_prepared(folder: str | os.PathLike) -> Prepared:
    """A data set written by `tempo_jax.data.prepare`: len(), [i] -> Sample, picklable.

    Raises TempoError, one sentence, where it is missing, empty, damaged or of another kind.
    """
    path = paths.path("the prepared data set", folder)  # array_record would wait for a bucket for ever
    if not path.is_dir():
        raise TempoError(f"There is no prepared data set {path}: make one with {PREPARE}.")
    if not (path / "dataset_info.json").is_file():
        raise TempoError(f"{path} is not a prepared data set: make one with {PREPARE}.")
    try:
        prepared = Prepared(str(path))
        prepared.check()
    except TempoError:
        raise
    except Exception as error:  # whatever TFDS and array_record make of damaged files
        raise TempoError(
            f"The prepared data set {path} is damaged ({_first_line(error)}): "
            f"copy it again or prepare it again with {PREPARE}."
        ) from error
    return prepared


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
