"""Workarounds for what XLA:TPU does badly: each says the problem, the evidence, and when to remove it.

Both are judged by XLA's own cycle estimates, as compiled with libtpu 0.0.42
(docs/results/optimization-log.md); neither has been timed on a TPU.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tempo_jax.models.kernels.attention import platform
from tempo_jax.sharding import ShardingRules, partition_spec, shard_map_local


def matvec_as_matmul(matmul: Callable, x: jax.Array) -> jax.Array:
    """Computes matmul(x) for x [..., in]; on a TPU, a single row is multiplied as two equal rows.

    Problem: XLA:TPU computes a matrix-vector product outside the matrix unit.
    Evidence: its estimate of one row is four times that of two rows, which it multiplies while the next
      weights are fetched; a decode step of Tempo-6B takes 17.6 ms with one row and 6.9 ms with two.
    Remove when: `tests/test_plan_tpu.py::test_one_row_is_multiplied_in_the_matrix_unit` fails with a newer
      libtpu, that is, when one row no longer takes more than three times as long.
    """
    if platform() != "tpu" or math.prod(x.shape[:-1]) != 1:
        return matmul(x)
    y = matmul(jnp.broadcast_to(x.reshape(1, -1), (2, x.shape[-1])))
    return y[:1].reshape(*x.shape[:-1], -1)


def constrain_cache_layout(x_BKSH: jax.Array, rules: ShardingRules) -> jax.Array:
    """Fixes the layout of a KV cache on a TPU: head-major, as the attention of one query reads it.

    Problem: inside the decode loop XLA chooses another layout, and copies all caches before and after it.
    Evidence: 7.5 ms per call of Tempo-6B's decode loop at 8,192 visual tokens on v6e-1.
    Remove when: `tests/test_plan_tpu.py::test_a_step_of_decoding_leaves_caches_where_they_lie` passes
      without it.
    """
    if platform() != "tpu":
        return x_BKSH
    from jax.experimental.layout import Layout, with_layout_constraint  # needed on TPUs only

    def constrain(x):
        return with_layout_constraint(x, Layout((0, 1, 2, 3)))

    axes = ("none", "heads", "none", "none")  # per chip; left to XLA, the heads would be gathered
    spec = partition_spec(axes, x_BKSH.shape, jax.sharding.get_abstract_mesh(), rules)
    return shard_map_local(constrain, spec, spec)(x_BKSH)
