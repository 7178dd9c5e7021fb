"""Weights in 8 bits, for inference: the matrices of decoder layers as qwix arrays.

A matrix keeps one scale per output; activations, embeddings, norms, the vision tower and the projector stay
in bfloat16. A decode step reads all weights once a token, so it is there that fewer bytes should tell (not
measured on a TPU).
"""

import re
from typing import Any

import jax
import jax.numpy as jnp

# What `load` takes as a dtype -> how the matrices are stored.
STORAGE_DTYPES: dict[str, Any] = {"int8": jnp.int8, "fp8": jnp.float8_e4m3fn}
COMPUTE_DTYPE = jnp.bfloat16  # in what the model computes
_PATH = re.compile(r"(.*/)?layers/\d+/(attention/[qkvo]|mlp/(gate|up|down))/kernel")


def is_quantized_dtype(dtype: Any) -> bool:
    """Whether it is one of TYPES and no dtype of arrays."""
    return isinstance(dtype, str) and dtype in STORAGE_DTYPES


def is_quantized_path(path: str) -> bool:
    """Whether the parameter at a native path, one node per layer, is stored in 8 bits."""
    return _PATH.fullmatch(path) is not None


def quantize(params: dict, kind: str, prefix: str = "") -> dict:
    """Parameters, one node per layer, with those matrices replaced one after the other; changes `params`.

    kind: a name in TYPES. A matrix stays where it lies on a mesh.
    """
    for key, value in params.items():
        if isinstance(value, dict):
            quantize(value, kind, f"{prefix}{key}/")
        elif is_quantized_path(f"{prefix}{key}"):
            params[key] = _quantize_matrix(value, kind=kind)
    return params


def quantize_matrix(kernel, kind: str):
    """[in, out] as a qwix.QArray with a scale for every output."""
    import qwix

    return qwix.quantize(kernel, STORAGE_DTYPES[kind], channelwise_axes=(1,), scale_dtype=kernel.dtype)


_quantize_matrix = jax.jit(quantize_matrix, static_argnames="kind")


def matmul(x, kernel) -> jax.Array:
    """x @ kernel, of an array or of what `matrix` gave."""
    if isinstance(kernel, jax.Array):
        return x @ kernel
    import qwix

    return qwix.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
