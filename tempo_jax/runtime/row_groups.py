"""Computes a batch in groups of examples on a CPU, and as a whole elsewhere."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tempo_jax.models.kernels.attention import platform

GROUP_ROWS = 2048  # rows that keep a CPU's matmuls efficient; more of them leave its cache between layers


def in_groups(function: Callable, in_axes: Any, out_axes: Any, *, rows: int) -> Callable:
    """`function` of a batch, computed on a CPU (without a mesh) for a few examples at a time.

    What passes between layers then stays in the cache, and memory is that of one group
    (docs/results/optimization-log.md).

    Args:
      function: Of arrays with a batch axis; the results of each example depend on its own inputs alone.
      in_axes: The batch axis of each of the arguments, as in jax.vmap.
      out_axes: The batch axis of the results, as in jax.vmap.
      rows: Tokens of one example. A group has up to GROUP_ROWS of them, and at least one example.
    """
    if platform() != "cpu" or not jax.sharding.get_abstract_mesh().empty:
        return function

    def grouped(*args: Any) -> Any:
        in_tree = jax.tree.broadcast(in_axes, args)
        batch = jax.tree.leaves(args)[0].shape[jax.tree.leaves(in_tree)[0]]
        size = _group_size(batch, rows)
        if size == batch:
            return function(*args)

        def split(x: jax.Array, axis: int) -> jax.Array:
            shape = (*x.shape[:axis], batch // size, size, *x.shape[axis + 1 :])
            return jnp.moveaxis(x.reshape(shape), axis, 0)

        def merge(x: jax.Array, axis: int) -> jax.Array:
            x = jnp.moveaxis(x, 0, axis)
            return x.reshape(*x.shape[:axis], batch, *x.shape[axis + 2 :])

        results = jax.lax.map(lambda group: function(*group), jax.tree.map(split, args, in_tree))
        return jax.tree.map(merge, results, jax.tree.broadcast(out_axes, results))

    return grouped


def _group_size(batch: int, rows: int) -> int:
    """The largest divisor of `batch` with up to GROUP_ROWS rows; at least 1."""
    most = max(1, GROUP_ROWS // rows)
    return max(size for size in range(1, min(most, batch) + 1) if batch % size == 0)
