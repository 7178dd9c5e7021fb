"""Safetensors without torch: lazy slices in, shards streamed out.

File format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}},
then the tensors' bytes without gaps. Files are read with `pread`, so that what is resident is what
was asked for, unless they may be mapped, for a reader that copies at once; and written at known
offsets, so that tensors may come in any order.
"""

import dataclasses
import json
import math
import mmap
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.utils import mounts, stored_arrays
from tempo_jax.utils.folders import WRITER

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Names of the format -> numpy; others (packed ones) are left to the caller's sentence.
DTYPES = {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
OTHERS = ("adapter_", "optimizer", "consolidated", "training_", "scheduler")  # no weights of a whole model
MAX_HEADER = 100_000_000
# A column slice whose runs are shorter than a disk page costs the same bytes read as whole rows.
MIN_RUN_BYTES = 4096
MIN_MAPPED_BYTES = 1 << 20  # what is smaller is read: mapping has a cost of its own
_READ_BYTES = 32 << 20  # rows read at a time for a column slice


@dataclasses.dataclass(frozen=True)
class Info:
    """Position of a tensor; `start` is the offset from the beginning of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def numpy_dtype(self) -> np.dtype:
        return DTYPES[self.dtype]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.numpy_dtype.itemsize


class Reader:
    """The tensors of one file, or of a folder with one file or an index; nothing is read ahead."""

    def __init__(self, source: str | os.PathLike, weights: str | None = None, *, mapped: bool = False):
        """`weights`: the file, or index, that config.json names as `transformers_weights`.

        mapped: Large ranges are views of the mapped file, where it is on a disk, which spares a copy where
          the caller copies them.
        """
        self.mapped = mapped and mounts.may_map(source)
        self.infos: dict[str, Info] = {}
        self.bytes_read = 0
        self._descriptors: dict[Path, int] = {}
        files = _files(Path(source), weights)
        twice: dict[str, list[Info]] = {}
        for path in files:
            for name, info in _header(path).items():
                if name in self.infos:
                    twice.setdefault(name, [self.infos[name]]).append(info)
                self.infos[name] = info
        announced = {name for names in files.values() for name in names}
        if absent := sorted(announced - self.infos.keys()):
            raise TempoError(f"{source} lacks {some(absent)}, which {INDEX} announces: fetch it again")
        self._check_copies(twice)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _check_copies(self, twice: dict[str, list[Info]]) -> None:
        """A tensor in several files must be the same in all: which one counts depends on their order."""
        for name, infos in twice.items():
            known = [(info.dtype, info.shape) for info in infos]
            with self:
                copies = [self._range(info, 0, info.nbytes) for info in infos] if len(set(known)) == 1 else []
            if not copies or any(x.tobytes() != copies[0].tobytes() for x in copies):
                files = ", ".join(info.file.name for info in infos)
                raise TempoError(f"{name} is in {files} with different values: fetch the model again")

    def read(self, name: str) -> np.ndarray:
        """The whole tensor."""
        info = self.infos[name]
        return self._range(info, 0, info.nbytes).reshape(info.shape)

    def read_matrix(self, name: str, shape: tuple[int, ...], index: tuple[slice, ...]) -> np.ndarray:
        """`tensor.reshape(shape)[index]` (at most two axes, steps of 1), reading only what is needed."""
        info = self.infos[name]
        bounds = [s.indices(n)[:2] for s, n in zip(index, shape)] + [(0, n) for n in shape[len(index) :]]
        (top, bottom), item = bounds[0], info.numpy_dtype.itemsize
        row = math.prod(shape[1:]) * item
        if len(shape) == 1 or all(b == (0, n) for b, n in zip(bounds[1:], shape[1:])):
            return self._range(info, top * row, bottom * row).reshape(bottom - top, *shape[1:])
        left, right = bounds[1]
        out = np.empty((bottom - top, right - left), info.numpy_dtype)
        if (right - left) * item >= MIN_RUN_BYTES:
            for i in range(top, bottom):
                out[i - top] = self._range(info, i * row + left * item, i * row + right * item)
            return out
        step = max(1, _READ_BYTES // row)
        for i in range(top, bottom, step):
            stop = min(i + step, bottom)
            block = self._range(info, i * row, stop * row).reshape(stop - i, shape[1])
            out[i - top : stop - top] = block[:, left:right]
        return out

    def _range(self, info: Info, start: int, stop: int) -> np.ndarray:
        descriptor = self._descriptors.get(info.file)
        if descriptor is None:
            descriptor = self._descriptors[info.file] = os.open(info.file, os.O_RDONLY)
        begin, dtype = info.start + start, info.numpy_dtype
        if self.mapped and stop - start >= MIN_MAPPED_BYTES and begin % dtype.itemsize == 0:
            self.bytes_read += stop - start
            return _mapped(descriptor, info.file, begin, stop - start).view(dtype)
        out = stored_arrays.empty((stop - start,), np.uint8)
        view, done = memoryview(out), 0
        while done < len(out):  # one call returns 2 GiB at most
            count = os.preadv(descriptor, [view[done:]], begin + done)
            if count == 0:
                raise TempoError(f"{info.file} ended early while it was read: fetch it again")
            done += count
        self.bytes_read += done
        return out.view(dtype)


def _mapped(descriptor: int, file: Path, start: int, size: int) -> np.ndarray:
    """Bytes of a file as a read-only view, which unmaps them when it goes."""
    first = start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    try:
        pages = mmap.mmap(descriptor, start + size - first, offset=first, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise TempoError(f"{file} ended early while it was read: fetch it again") from error
    return np.frombuffer(pages, np.uint8, size, start - first)


class Writer:
    """One file or numbered shards with an index; every tensor's place is fixed at the start.

    `specs`: (name, dtype name, shape) in the order of the files. Call `write` once per tensor.
    """

    def __init__(self, folder: Path, specs: Iterable[tuple[str, str, tuple[int, ...]]], max_shard_bytes: int):
        self.infos: dict[str, Info] = {}
        self._files: list = []
        shards = _plan(list(specs), max_shard_bytes)
        total = 0
        for i, shard in enumerate(shards):
            name = SINGLE if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
            total += self._create(folder / name, shard)
        if len(shards) > 1:
            index = {
                "metadata": {"total_size": total},
                "weight_map": {name: info.file.name for name, info in self.infos.items()},
            }
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        self._open = dict(self._files)
        self._left = set(self.infos)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, *_) -> None:
        for _path, file in self._files:
            if kind is None:
                file.flush()
                os.fsync(file.fileno())
            file.close()
        if kind is None and self._left:
            raise RuntimeError(f"never written: {some(sorted(self._left))}")

    def write(self, name: str, array: np.ndarray) -> None:
        info = self.infos[name]
        if array.shape != info.shape or array.dtype != info.numpy_dtype:
            raise RuntimeError(f"{name}: {array.dtype}{array.shape} where {info} was announced")
        data = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        descriptor, done = self._open[info.file].fileno(), 0
        while done < len(data):
            done += os.pwrite(descriptor, data[done:], info.start + done)
        self._left.discard(name)

    def _create(self, path: Path, shard: list[tuple[str, str, tuple[int, ...]]]) -> int:
        header: dict = {"__metadata__": {"format": "pt", **WRITER}}
        end = 0
        for name, dtype, shape in shard:
            start, end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        file = path.open("wb")
        self._files.append((path, file))
        file.write(len(text).to_bytes(8, "little") + text)
        file.flush()
        file.truncate(8 + len(text) + end)
        for name, dtype, shape in shard:
            start = 8 + len(text) + header[name]["data_offsets"][0]
            self.infos[name] = Info(path, dtype, tuple(shape), start)
        return end


def equal_bytes(reader: Any, one: str, other: str) -> bool:
    """Whether two tensors of a reader are the same bytes, compared a block of rows at a time."""
    a, b = reader.infos[one], reader.infos[other]
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return all(
        np.array_equal(x.view(np.uint8), y.view(np.uint8))
        for x, y in zip(_blocks(reader, one), _blocks(reader, other))
    )


def _blocks(reader: Any, name: str) -> Iterable[np.ndarray]:
    info = reader.infos[name]
    step = max(1, _READ_BYTES * info.shape[0] // max(1, info.nbytes))
    for i in range(0, info.shape[0], step):
        yield reader.read_matrix(name, info.shape, (slice(i, i + step),))


def _plan(specs: list, max_bytes: int) -> list[list]:
    shards: list[list] = [[]]
    size = 0
    for spec in specs:
        nbytes = math.prod(spec[2]) * DTYPES[spec[1]].itemsize
        if shards[-1] and size + nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += nbytes
    return shards


def _files(source: Path, weights: str | None = None) -> dict[Path, list[str]]:
    """File -> tensors that an index announces, chosen as transformers chooses.

    `model.safetensors` comes before an index, which comes before a single file of another name; adapters,
    optimizer states and consolidated copies beside them are ignored.
    """
    if source.is_file():
        return {source: []}
    if not source.is_dir():
        raise TempoError(f"{source} does not exist: give the folder of a Hugging Face checkpoint")
    if weights is not None:
        if Path(weights).name != weights or not (source / weights).is_file():
            raise TempoError(
                f"config.json names the weights {weights!r}, which are not in {source}: fetch them"
            )
        return _indexed(source / weights) if weights.endswith(".json") else {source / weights: []}
    if (source / SINGLE).is_file():
        return {source / SINGLE: []}
    if (source / INDEX).is_file():
        return _indexed(source / INDEX)
    files = sorted(path for path in source.glob("*.safetensors") if not path.name.startswith(OTHERS))
    if len(files) == 1:
        return {files[0]: []}
    if files:
        raise TempoError(f"{source} holds {len(files)} safetensors files but no {INDEX}: fetch that file too")
    raise TempoError(f"{source} holds no safetensors file: give the folder of a Hugging Face checkpoint")


def _indexed(index: Path) -> dict[Path, list[str]]:
    out: dict[Path, list[str]] = {}
    for name, file in _index(index).items():
        if Path(file).name != file:
            raise TempoError(f"{index} names the file {file!r}, which lies outside its folder")
        out.setdefault(index.parent / file, []).append(name)
    if absent := sorted(path.name for path in out if not path.is_file()):
        raise TempoError(
            f"{index.parent} lacks {some(absent)} named by {index.name}: fetch the missing files"
        )
    return dict(sorted(out.items()))


def _index(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(v, str) for v in weight_map.values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TempoError(f"{path} is damaged, it holds no weight_map: fetch it again") from error
    return weight_map


def _header(path: Path) -> dict[str, Info]:
    """The checked header of a file; a TempoError when it is cut short or damaged."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise TempoError(f"{path} is cut short or no safetensors file ({size} bytes): fetch it again")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_once)
        header.pop("__metadata__", None)
        entries = {
            n: (e["dtype"], tuple(map(int, e["shape"])), *e["data_offsets"]) for n, e in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TempoError(f"{path} has a damaged header: fetch it again") from error
    _check_offsets(path, list(entries.values()), size - 8 - length)
    return {n: Info(path, d, shape, 8 + length + start) for n, (d, shape, start, _) in entries.items()}


def _once(pairs: list[tuple[str, Any]]) -> dict:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)


def _check_offsets(path: Path, entries: list[tuple], data_bytes: int) -> None:
    position = 0
    for dtype, shape, start, stop in sorted(entries, key=lambda e: e[2:]):
        known = DTYPES.get(dtype)
        right = known is None or stop - start == math.prod(shape) * known.itemsize
        if start != position or stop < start or min(shape, default=0) < 0 or not right:
            raise TempoError(
                f"{path} has a damaged header (its tensors overlap or leave gaps): fetch it again"
            )
        position = stop
    if position != data_bytes:
        raise TempoError(
            f"{path} holds {data_bytes} bytes of tensors, its header announces {position}: fetch it again"
        )


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first names and how many more there are."""
    remainder = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + remainder
