"""The arrays of an Orbax tree on a disk, read to where they stay.

Tensorstore maps the files of a disk into memory, so that each byte is copied once. Arrays begin at multiples
of 64 bytes, where JAX uses host memory on CPUs without another copy, and numpy asks for huge pages for large
ones.
"""

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts

from tempo_jax.utils import mounts, paths

ALIGNMENT = 64  # bytes; XLA's for buffers on CPUs
_METADATA = "zarr.json"
_CONTEXT = {"cache_pool": {"total_bytes_limit": 0}}
_MAPPED = {"file_io_mode": {"mode": "memmap"}}


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """As np.empty, at a multiple of ALIGNMENT."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes].view(dtype).reshape(shape)


class StoredArrays:
    """The arrays of one tree, by their path.

    Attributes:
      shapes: Shape and dtype of each array.
    """

    def __init__(self, folder: Path):
        """folder: of an OCDBT store of Zarr 3 arrays; see `is_readable`."""
        context = ts.Context(_CONTEXT | (_MAPPED if mounts.may_map(folder) else {}))
        base = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
        names = ts.KvStore.open(base, context=context).result().list().result()
        opened = {}
        for name in sorted(key.decode().removesuffix(f"/{_METADATA}") for key in names if _is_array(key)):
            opened[name] = ts.open(
                {
                    "driver": "zarr3",
                    "kvstore": {**base, "path": f"{name}/"},
                    "fill_missing_data_reads": False,
                },
                context=context,
                open=True,
                read=True,
            )
        self._stores = {name.replace(".", "/"): future.result() for name, future in opened.items()}
        self._context = context
        self.shapes = {
            path: jax.ShapeDtypeStruct(store.shape, store.dtype.numpy_dtype)
            for path, store in self._stores.items()
        }

    def read(self, path: str, index: tuple[slice, ...], dtype: Any) -> np.ndarray:
        """Reads array[index] (steps of 1), cast to `dtype`, into memory of its own."""
        store = self._stores[path]
        bounds = [part.indices(size)[:2] for part, size in zip(index, store.shape, strict=True)]
        selected = store[tuple(slice(*bound) for bound in bounds)] if bounds else store
        if store.dtype.numpy_dtype != np.dtype(dtype):
            selected = ts.cast(selected, ts.dtype(np.dtype(dtype).name))
        out = empty(tuple(stop - start for start, stop in bounds), dtype)
        target = ts.array(out, context=self._context)
        if bounds:
            selected = selected[ts.d[:].translate_to[0]]
        target.write(selected).result()
        return out


def is_readable(folder: paths.AnyPath) -> bool:
    """Whether `StoredArrays` reads a folder's tree: it is on a disk, in the layout of native checkpoints."""
    if paths.remote(folder) or not (folder / "manifest.ocdbt").is_file():
        return False
    try:
        return bool(json.loads((folder / "_METADATA").read_text(encoding="utf-8")).get("use_zarr3"))
    except (OSError, ValueError, AttributeError):
        return False


def _is_array(key: bytes) -> bool:
    return key.endswith(f"/{_METADATA}".encode())
