"""Workarounds for what XLA:CPU does badly: each says the problem, the evidence, and when to remove it."""

import math

import jax
import jax.numpy as jnp

from tempo_jax.models.kernels.attention import platform


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel, [..., in] times [in, out]; on a CPU, bfloat16 is summed up in float32 and rounded once.

    Problem: XLA:CPU converts bfloat16 matrices to float32 for a matmul whose result is bfloat16, and all of
      the kernel again for a single row; YNNPACK's bfloat16 kernels have float32 results and two rows or more.
    Evidence: 155 ms against 63 for 2048 x 1024 x 3072, and 273 ms against 32 for 1 x 768 x 151936
      (docs/results/optimization-log.md).
    Remove when: `tests/test_cpu_workarounds.py::test_xla_still_converts_bfloat16` fails with a newer jaxlib.
    """
    if platform() != "cpu" or not x.dtype == kernel.dtype == jnp.bfloat16:
        return x @ kernel
    is_row = math.prod(x.shape[:-1]) == 1
    rows = jnp.broadcast_to(x.reshape(1, -1), (2, x.shape[-1])) if is_row else x
    y = jnp.matmul(rows, kernel, preferred_element_type=jnp.float32).astype(x.dtype)
    return y[:1].reshape(*x.shape[:-1], -1) if is_row else y


MAX_ROWS = 16  # of answers that are decoded together


def logits(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel in float32, [..., in] times [in, vocab]; on a CPU, few rows of bfloat16 one by one.

    Problem: for two rows and more XLA:CPU first makes a float32 copy of a transposed bfloat16 matrix, as tied
      embeddings are; for one row it converts while it multiplies.
    Evidence: 7 ms for one row, 213 for two and 224 for eight, of 2560 x 38000.
    Remove when: `tests/test_cpu_workarounds.py::test_xla_still_copies_embeddings_for_rows` fails with a newer
      jaxlib.
    """

    def product(x):
        return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)

    rows = math.prod(x.shape[:-1])
    if platform() != "cpu" or x.dtype != jnp.bfloat16 or not 1 < rows <= MAX_ROWS:
        return product(x)
    return jax.lax.map(product, x.reshape(rows, 1, -1)).reshape(*x.shape[:-1], -1)
