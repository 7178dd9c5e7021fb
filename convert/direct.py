"""Hugging Face safetensors straight onto a mesh, without a native checkpoint in between.

Each process reads the byte ranges of its own devices' shards, transposed and stacked tensors included.
"""

import os
from typing import Any

import jax
import numpy as np

from convert import from_hf, hub, mapping
from convert.source import Source, SourceTensor
from tempo_jax import sharding
from tempo_jax.errors import TempoError
from tempo_jax.utils.tree import nest


def load_hf(
    model: str,
    source: str | os.PathLike,
    mesh: jax.sharding.Mesh,
    *,
    base: str | os.PathLike | None = None,
    dtype: str = "source",
) -> tuple[Any, dict]:
    """Loads a Hugging Face checkpoint onto a mesh.

    Args:
      model: one of `from_hf.MODELS` but tempo-init.
      source: folder of the checkpoint, or its Hub id.
      mesh: mesh over which parameters are sharded.
      base: the Qwen3-VL of a Tempo, a folder or id.
      dtype: "source", "bfloat16" or "float32".

    Returns:
      The config, and the native parameter tree of sharded arrays.

    Raises:
      TempoError: The checkpoint cannot be converted.
    """
    from_hf.check_arguments(model, base, dtype)
    if model == "tempo-init":
        raise TempoError("tempo-init is not loaded directly: write it with python -m convert.from_hf first")
    folder = hub.locate("the source", source).folder
    with Source(model, folder, hub.locate("the base", base).folder if base else None) as opened:
        wanted = from_hf.DTYPES[dtype]
        arrays = {part.tensor.native: _place(part, wanted, mesh) for part in opened.parts}
        if opened.kind == "tempo":
            direction = opened.direction()
            param_sharding = sharding.param_sharding(mapping.DIRECTION, direction.shape, mesh)
            arrays[mapping.DIRECTION] = jax.make_array_from_callback(
                direction.shape, param_sharding, lambda index: direction[index]
            )
        return opened.config, nest(arrays)


def _place(part: SourceTensor, dtype: np.dtype | None, mesh: jax.sharding.Mesh) -> jax.Array:
    shape = part.tensor.shape
    param_sharding = sharding.param_sharding(part.tensor.native, shape, mesh)
    target = np.dtype(jax.dtypes.canonicalize_dtype(dtype or part.dtype))
    read: dict[tuple, np.ndarray] = {}  # devices that hold the same shard share one reading

    def shard(index: tuple[slice, ...]) -> np.ndarray:
        key = tuple(s.indices(n)[:2] for s, n in zip(index, shape))
        if key not in read:
            read[key] = part.read_slice(target, index)
        return read[key]

    return jax.make_array_from_callback(shape, param_sharding, shard)
