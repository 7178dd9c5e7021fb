"""Attention of one new token per sequence on TPUs: one Pallas kernel from projections to attention output.

Left to XLA this is a dozen fusions per layer, each of which XLA expects to take a microsecond however little
it computes (docs/results/optimization-log.md), over the whole cache, whether written or not. The kernel norms
and rotates the new token's heads, and reads the cache once, as far as it is written.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tempo_jax import sharding
from tempo_jax.models.kernels.cost import KernelArray, KernelCost
from tempo_jax.models.kernels.qk_norm_rope import HeadNorm, head_lanes, rms_normalize, rope_fn
from tempo_jax.models.kernels.splash import LANES
from tempo_jax.sharding import DEFAULT_RULES, ShardingRules

MAX_SLOTS_PER_BLOCK = 2048  # cache slots of one grid step
SUBLANES = 16  # rows of a bfloat16 tile; the queries of a group are padded to a multiple
MASK_VALUE = -1e30
NAME = "decode_attention"  # part of the kernel's name in compiled programs


def is_supported(dtype, head_dim: int) -> bool:
    """Whether the kernel takes heads of `head_dim` channels: bfloat16, one tile."""
    return dtype == jnp.bfloat16 and head_dim == LANES


def attend(
    projected: tuple[jax.Array, jax.Array, jax.Array],
    cache: tuple[jax.Array, jax.Array],
    position_B,
    angles_B1R,
    *,
    norms: tuple[HeadNorm, HeadNorm] | None,
    rules: ShardingRules = DEFAULT_RULES,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """softmax(H^-0.5 q k^T) v over the first `position_B` slots of the cache and the new token itself.

    Args:
      projected: The new token's queries [B, 1, N*H], keys and values [B, 1, K*H], bfloat16, before norm and
        rotation.
      cache: Keys and values [B, K, S, H], without the new token.
      position_B: int32, written slots of each sequence's cache.
      angles_B1R: float32 [B or 1, 1, H/2], by which queries and keys are rotated.
      norms: RMS norms of query and key heads; None to leave them out.
      rules: How heads are split over the mesh.
      interpret: Runs the kernel's code on a CPU, for tests.

    Returns:
      The attention output [B, 1, N*H], and the normed, rotated keys [B, 1, K*H], which the caller writes to
      the cache.
    """
    q, k, _ = projected
    batch, kv_heads, _, head_dim = cache[0].shape
    table = jnp.concatenate([jnp.cos(angles_B1R), jnp.sin(angles_B1R)], -1)
    table = jnp.broadcast_to(table, (batch, 1, head_dim))
    norm_scales = None if norms is None else tuple(norm.scale[...].reshape(1, head_dim) for norm in norms)
    config = _KernelConfig(
        eps=None if norms is None else norms[0].eps,
        queries_per_key=q.shape[-1] // k.shape[-1],
        interpret=interpret,
    )
    mesh = jax.sharding.get_abstract_mesh()
    _, head_axes = sharding.partition_spec(("none", "heads"), (batch, kv_heads), mesh, rules)
    token, cached = jax.P(None, None, head_axes), jax.P(None, head_axes)
    in_specs = ((token,) * 3, (cached,) * 2, jax.P(), jax.P(), jax.P())
    run = functools.partial(_call, config)
    run = sharding.shard_map_local(run, in_specs, (token, token))
    return run(projected, cache, position_B, table, norm_scales)


def cost(name: str, operands: Sequence[KernelArray], results: Sequence[KernelArray]) -> KernelCost:
    """The kernel reads its operands; caches are counted whole, as if every slot were written."""
    return KernelCost(0.0, LANES, cache_bytes=sum(x.nbytes for x in operands))


class _KernelConfig(NamedTuple):
    eps: float | None  # None: no norms
    queries_per_key: int
    interpret: bool


class _Inputs(NamedTuple):
    """The kernel's operands in their order, as arrays, block specs, or refs."""

    q: Any
    new_k: Any
    new_v: Any
    k: Any
    v: Any
    table: Any
    q_norm_scale: Any = None
    k_norm_scale: Any = None


class _Scratch(NamedTuple):
    """The running softmax of a group of queries, float32 [queries, LANES] each."""

    queries: Any
    maximum: Any
    total: Any
    values: Any


def _call(config: _KernelConfig, projected, cache, position, table, norm_scales):
    batch, kv_heads, slots, _ = cache[0].shape
    block = min(slots, MAX_SLOTS_PER_BLOCK)
    rows = SUBLANES * math.ceil(config.queries_per_key / SUBLANES)
    inputs = _Inputs(*projected, *cache, table, *(norm_scales or ()))

    def one_token(heads: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, 1, heads * LANES), lambda b, h, s, position: (b, 0, h))

    def last_written(b, h, s, position):
        """The cache block of this step; past the written slots the last written one, not fetched again."""
        return b, h, jnp.minimum(s, jnp.maximum(position[b] - 1, 0) // block), 0

    cache_spec = pl.BlockSpec((None, None, block, LANES), last_written)
    norm_spec = pl.BlockSpec((1, LANES), lambda b, h, s, position: (0, 0))
    specs = _Inputs(
        q=one_token(config.queries_per_key),
        new_k=one_token(1),
        new_v=one_token(1),
        k=cache_spec,
        v=cache_spec,
        table=pl.BlockSpec((None, 1, LANES), lambda b, h, s, position: (b, 0, 0)),
        q_norm_scale=None if norm_scales is None else norm_spec,
        k_norm_scale=None if norm_scales is None else norm_spec,
    )
    nbytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((projected, cache, table)))
    return pl.pallas_call(
        functools.partial(_kernel, config, slots),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch, kv_heads, pl.cdiv(slots, block)),
            in_specs=[spec for spec in specs if spec is not None],
            out_specs=[one_token(config.queries_per_key), one_token(1)],
            scratch_shapes=[pltpu.VMEM((rows, LANES), jnp.float32)] * len(_Scratch._fields),
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (inputs.q, inputs.new_k)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        cost_estimate=pl.CostEstimate(flops=0, transcendentals=0, bytes_accessed=nbytes),
        name=NAME,
        interpret=config.interpret,
    )(position, *[x for x in inputs if x is not None])


def _kernel(config: _KernelConfig, slots: int, position_ref, *refs):
    """Steps over the blocks of the cache; the running softmax starts with the new token."""
    *inputs, out_ref, new_key_ref = refs[: -len(_Scratch._fields)]
    inputs, scratch = _Inputs(*inputs), _Scratch(*refs[-len(_Scratch._fields) :])
    dtype, (block, head_dim) = out_ref.dtype, inputs.k.shape
    step, position = pl.program_id(2), position_ref[pl.program_id(0)]
    # bfloat16 operands allow no precision but the default, whatever the caller's context asks of float32.
    dot = functools.partial(
        jax.lax.dot_general, precision=jax.lax.Precision.DEFAULT, preferred_element_type=jnp.float32
    )

    @pl.when(step == 0)
    def _():
        rotate = rope_fn(inputs.table[...])

        def norm_and_rotate(x, norm_scale_ref):
            x = x.astype(jnp.float32)
            if config.eps is not None:
                norm_scale = norm_scale_ref[...].astype(jnp.float32)
                x = (rms_normalize(x, config.eps, dtype)[0] * norm_scale).astype(dtype).astype(jnp.float32)
            return rotate(x)

        key = norm_and_rotate(inputs.new_k[...], inputs.k_norm_scale).astype(dtype)
        new_key_ref[...] = key
        scratch.queries[...] = jnp.zeros_like(scratch.queries)
        for row in range(config.queries_per_key):
            query = norm_and_rotate(inputs.q[:, head_lanes(row)], inputs.q_norm_scale) * head_dim**-0.5
            scratch.queries[row : row + 1, :] = query.astype(dtype).astype(jnp.float32)
        score = jnp.sum(scratch.queries[...] * key.astype(jnp.float32), axis=1, keepdims=True)
        scratch.maximum[...] = jnp.broadcast_to(score, scratch.maximum.shape)
        scratch.total[...] = jnp.ones_like(scratch.total)
        new_value = inputs.new_v[...].astype(jnp.float32)
        scratch.values[...] = jnp.broadcast_to(new_value, scratch.values.shape)

    def attend_block(v):
        scores = dot(scratch.queries[...].astype(dtype), inputs.k[...], (((1,), (1,)), ((), ())))
        slot = step * block + jax.lax.broadcasted_iota(jnp.int32, (1, block), 1)
        scores = jnp.where(slot < position, scores, MASK_VALUE)
        previous = scratch.maximum[:, :1]
        maximum = jnp.maximum(previous, jnp.max(scores, axis=1, keepdims=True))
        probs, correction = jnp.exp(scores - maximum), jnp.exp(previous - maximum)
        scratch.maximum[...] = jnp.broadcast_to(maximum, scratch.maximum.shape)
        scratch.total[...] = scratch.total[...] * correction + jnp.sum(probs, axis=1, keepdims=True)
        scratch.values[...] = scratch.values[...] * correction + dot(
            probs.astype(dtype), v, (((1,), (0,)), ((), ()))
        )

    last, last_is_full = pl.cdiv(slots, block) - 1, slots % block == 0

    @pl.when((step * block < position) & ((step < last) | last_is_full))
    def _():
        attend_block(inputs.v[...])

    if not last_is_full:

        @pl.when((last * block < position) & (step == last))
        def _():  # what a block holds past the end of the cache is undefined and may be NaN
            slot = jax.lax.broadcasted_iota(jnp.int32, (block, 1), 0)
            v = jnp.where(slot < slots % block, inputs.v[...].astype(jnp.float32), 0.0)
            attend_block(v.astype(dtype))

    @pl.when(step == last)
    def _():
        out = (scratch.values[...] / scratch.total[...]).astype(dtype)
        for row in range(config.queries_per_key):
            out_ref[:, head_lanes(row)] = out[row : row + 1, :]
