"""Native checkpoints written and read one array at a time, so that no model has to fit into memory."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from orbax.checkpoint import v1 as ocp

from convert import memory
from tempo_jax import checkpoint
from tempo_jax.utils import digests, paths, signals
from tempo_jax.utils.commit import AUTO, by_marker
from tempo_jax.utils.folders import LAST, atomic_directory
from tempo_jax.utils.tree import flatten, nest

BATCH_BYTES = 64 << 20  # small arrays are written and read together
LARGE_BYTES = 512 << 20  # from here on memory that was freed is given back at once


@contextlib.contextmanager
def saving(
    directory: str | os.PathLike,
    kind: str,
    config: Any,
    tokenizer_dir: str | os.PathLike | None = None,
    origin: dict | None = None,
    *,
    overwrite: bool | str = False,
    keep: Sequence[str | os.PathLike | None] = (),
    commit: str = AUTO,
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """Like `save`, one array at a time: yields `put(path, array)`, which keeps a few small ones at most.

    For one process. When the block raises, nothing is left of the checkpoint. `overwrite`, `keep`, `commit`:
    as for `folders.atomic_directory`. Arrays are stored uncompressed: compression takes most of the time and
    saves a fifth of the space.
    """
    context = checkpoint.saving_context(compress=False)
    with (
        atomic_directory(directory, overwrite, keep=keep, commit=commit) as target,
        # ocp.partial renames folders.
        paths.staged(target, LAST, always=by_marker(target, commit)) as folder,
        context,
        checkpoint.quiet(),
    ):
        waiting: dict[str, np.ndarray] = {}
        written = digests.DigestWriter()

        def flush() -> None:
            if waiting:
                with signals.held():  # Orbax's threads would continue writing
                    ocp.partial.save(folder / "params", nest(waiting))
                large = sum(x.nbytes for x in waiting.values()) > LARGE_BYTES
                waiting.clear()
                if large:  # it takes as long as the writing itself
                    memory.give_back()
                written.take(folder)

        def put(path: str, array: np.ndarray) -> None:
            waiting[path] = array
            if sum(x.nbytes for x in waiting.values()) > BATCH_BYTES:
                flush()

        yield put
        flush()
        with signals.held():
            ocp.partial.finalize(folder / "params")
        checkpoint.write_metadata(folder, kind, config, tokenizer_dir, origin, written)


def stored_arrays(directory: str | os.PathLike, paths: Sequence[str]) -> Iterator[np.ndarray]:
    """The arrays of `paths` as they are stored, on the host: one large one or a few small ones at a time."""
    shapes = checkpoint.param_shapes(directory)
    context = checkpoint.loading_context()
    context.pytree.loading.partial_load = True
    for group in _groups([(path, shapes[path]) for path in paths]):
        with context, checkpoint.report_corruption(directory):
            abstract = nest(dict.fromkeys(group, np.ndarray))
            arrays = flatten(ocp.load(checkpoint.params_folder(directory), abstract))
        for path in group:
            yield arrays.pop(path)


def _groups(leaves: list[tuple[str, Any]]) -> Iterator[list[str]]:
    """Neighbors of together at most BATCH_BYTES, or one that is larger."""
    group, size = [], 0
    for path, leaf in leaves:
        nbytes = math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        if group and size + nbytes > BATCH_BYTES:
            yield group
            group, size = [], 0
        group.append(path)
        size += nbytes
    if group:
        yield group
