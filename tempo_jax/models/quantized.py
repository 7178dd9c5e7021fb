"""Weight-only quantization for inference: the matrices of decoder layers in 8 bits, as qwix arrays.

A matrix has one scale per output channel; activations, embeddings, norms, the vision tower and the projector
stay in bfloat16. A decode step reads all weights for each token, so that fewer bytes should make it faster
(not measured on a TPU).
"""

import re
from typing import Any

import jax
import jax.numpy as jnp

from tempo_jax.models import cpu_workarounds

# dtype argument of `load` -> dtype that matrices are stored in.
STORAGE_DTYPES: dict[str, Any] = {"int8": jnp.int8, "fp8": jnp.float8_e4m3fn}
COMPUTE_DTYPE = jnp.bfloat16
_PATH = re.compile(r"(.*/)?layers/\d+/(attention/[qkvo]|mlp/(gate|up|down))/kernel")


def is_quantized_dtype(dtype: Any) -> bool:
    """Whether it is a name in STORAGE_DTYPES."""
    return isinstance(dtype, str) and dtype in STORAGE_DTYPES


def is_quantized_path(path: str) -> bool:
    """Whether the parameter at a native path (with one node per layer) is quantized."""
    return _PATH.fullmatch(path) is not None


def quantize(params: dict, kind: str, prefix: str = "") -> dict:
    """Quantizes the matrices of decoder layers one after the other, in place.

    Args:
      params: Parameters with one node per layer; matrices keep their sharding.
      kind: A name in STORAGE_DTYPES.
      prefix: Path of `params` in the tree.
    """
    for key, value in params.items():
        if isinstance(value, dict):
            quantize(value, kind, f"{prefix}{key}/")
        elif is_quantized_path(f"{prefix}{key}"):
            params[key] = _quantize_matrix(value, kind=kind)
    return params


def quantize_matrix(kernel, kind: str):
    """Quantizes [in, out] to a qwix.QArray with one scale per output channel."""
    import qwix

    return qwix.quantize(kernel, STORAGE_DTYPES[kind], channelwise_axes=(1,), scale_dtype=kernel.dtype)


_quantize_matrix = jax.jit(quantize_matrix, static_argnames="kind")


def matmul(x, kernel) -> jax.Array:
    """x @ kernel, for an array or a quantized matrix."""
    if isinstance(kernel, jax.Array):
        return cpu_workarounds.matmul(x, kernel)
    import qwix

    return qwix.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
