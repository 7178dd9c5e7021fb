"""Hugging Face safetensors straight onto a mesh, without a native checkpoint in between.

Each process reads the byte ranges of its own devices' shards, transposed and stacked tensors included.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from convert import from_hf, hub, mapping
from convert.source import Source
from tempo_jax.errors import TempoError
from tempo_jax.models import stacks
from tempo_jax.sharding import param_sharding
from tempo_jax.utils.tree import nest


def load_hf(
    model: str,
    source: str | os.PathLike,
    mesh: jax.sharding.Mesh,
    *,
    base: str | os.PathLike | None = None,
    dtype: str = "source",
    per_layer: bool = False,
) -> tuple[Any, dict]:
    """Loads a Hugging Face checkpoint onto a mesh.

    Args:
      model: one of `from_hf.MODELS` but tempo-init.
      source: folder of the checkpoint, or its Hub id.
      mesh: mesh over which parameters are sharded.
      base: the Qwen3-VL of a Tempo, a folder or id.
      dtype: "source", "bfloat16" or "float32".
      per_layer: one node per layer, for inference, in place of stacked layers.

    Returns:
      The config, and the native parameter tree of sharded arrays.

    Raises:
      TempoError: The checkpoint cannot be converted.
    """
    from_hf.check_arguments(model, base, dtype)
    if model == "tempo-init":
        raise TempoError("tempo-init is not loaded directly: write it with python -m convert.from_hf first")
    folder = hub.locate("the source", source).folder
    base_folder = hub.locate("the base", base).folder if base else None
    with Source(model, folder, base_folder, mapped=True) as opened:
        wanted = from_hf.DTYPES[dtype]
        arrays: dict[str, jax.Array] = {}
        for part in opened.parts:
            target = jax.dtypes.canonicalize_dtype(wanted or part.dtype)
            arrays |= _place(part.tensor.native, part.tensor.shape, target, part.read_slice, mesh, per_layer)
        if opened.kind == "tempo":
            direction = opened.direction()
            arrays |= _place(
                mapping.DIRECTION,
                direction.shape,
                direction.dtype,
                lambda dtype, index: direction[index],
                mesh,
            )
        return opened.config, nest(arrays)


def _place(
    path: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    read_slice: Callable[[np.dtype, tuple[slice, ...]], np.ndarray],
    mesh: jax.sharding.Mesh,
    per_layer: bool = False,
) -> dict[str, jax.Array]:
    sharding = param_sharding(path, shape, mesh)
    leaf = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    placed = stacks.place(path, leaf, lambda index, dtype: read_slice(dtype, index), per_layer=per_layer)
    return jax.block_until_ready(placed)  # so that the host holds one array at a time
