"""Attention of one new token a row on TPUs: one Pallas kernel from its projections to what heads give.

Left to XLA this is a dozen fusions a layer, each of which it expects to take a microsecond however little it
computes (docs/plans.md), over the whole cache, written or not. The kernel norms and rotates the new token's
heads, and reads the cache once, as far as it is written.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tempo_jax import sharding
from tempo_jax.models.kernels.qk_norm_rope import HeadNorm, over_rms, tile, turns
from tempo_jax.models.kernels.splash import LANES

MAX_SLOTS_PER_BLOCK = 2048  # cache slots of a step, at most
SUBLANES = 16  # that half precision stores together: a group's queries are padded to them
MASK_VALUE = -1e30
NAME = "decode_attention"  # the planner knows the kernel by it


def is_supported(dtype, size: int) -> bool:
    """Whether the kernel takes heads of `size`: half precision, as splash attention."""
    return dtype == jnp.bfloat16 and size == LANES


def attend(
    projected: tuple[jax.Array, jax.Array, jax.Array],
    cache: tuple[jax.Array, jax.Array],
    position_B,
    angles_B1R,
    *,
    norms: tuple[HeadNorm, HeadNorm] | None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """softmax(H^-0.5 q k^T) v over the first `position_B` slots of the cache and the new token itself.

    projected: the new token's queries [B, 1, N*H], keys and values [B, 1, K*H], bfloat16, heads side by side;
    queries and keys not yet normed (`norms`: theirs, each over H) nor rotated (by float32 [B or 1, 1, H/2]).
    cache: keys and values [B, K, S, H], without the new token. Gives [B, 1, N*H] and the normed, rotated keys
    [B, 1, K*H], which the caller writes. interpret: runs the kernel's own code on a CPU, for tests.
    """
    q, k, _ = projected
    batch, heads, _, size = cache[0].shape
    table = jnp.concatenate([jnp.cos(angles_B1R), jnp.sin(angles_B1R)], -1)
    table = jnp.broadcast_to(table, (batch, 1, size))
    scales = None if norms is None else tuple(norm.scale[...].reshape(1, size) for norm in norms)
    how = _How(None if norms is None else norms[0].eps, q.shape[-1] // k.shape[-1], interpret)
    _, split = sharding.partition_spec(("none", "heads"), (batch, heads), jax.sharding.get_abstract_mesh())
    beside, after = jax.P(None, None, split), jax.P(None, split)
    where = ((beside,) * 3, (after,) * 2, jax.P(), jax.P(), jax.P())
    run = functools.partial(_call, how)
    return sharding.shard_map_local(run, where, (beside, beside))(projected, cache, position_B, table, scales)


class _How(NamedTuple):
    eps: float | None  # without norms
    group: int  # queries to a key
    interpret: bool


def _call(how: _How, projected, cache, position, table, scales):
    batch, heads, slots, _ = cache[0].shape
    keys = min(slots, MAX_SLOTS_PER_BLOCK)
    rows = SUBLANES * math.ceil(how.group / SUBLANES)

    def one(count: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, 1, count * LANES), lambda b, h, s, position: (b, 0, h))

    def written(b, h, s, position):
        """The block of this step, or again the last that has a written slot."""
        return b, h, jnp.minimum(s, jnp.maximum(position[b] - 1, 0) // keys), 0

    shared = [pl.BlockSpec((None, 1, LANES), lambda b, h, s, position: (b, 0, 0))]
    if scales is not None:
        shared += [pl.BlockSpec((1, LANES), lambda b, h, s, position: (0, 0))] * 2
    queries, new = projected[:2]
    read = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((projected, cache, table)))
    return pl.pallas_call(
        functools.partial(_kernel, how, slots),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch, heads, pl.cdiv(slots, keys)),
            in_specs=[
                one(how.group), *[one(1)] * 2,
                *[pl.BlockSpec((None, None, keys, LANES), written)] * 2,
                *shared,
            ],
            out_specs=[one(how.group), one(1)],
            scratch_shapes=[pltpu.VMEM((rows, LANES), jnp.float32)] * 4,
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (queries, new)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        cost_estimate=pl.CostEstimate(flops=0, transcendentals=0, bytes_accessed=read),
        name=NAME,
        interpret=how.interpret,
    )(position, *projected, *cache, table, *(scales or ()))  # fmt: skip


def _kernel(how: _How, slots: int, position_ref, q_ref, new_k_ref, new_v_ref, k_ref, v_ref, table_ref, *refs):
    """Steps over the cache's blocks; the new token is what the running softmax begins with."""
    *scale_refs, out_ref, key_ref, queries, top, total, values = refs
    dtype, (keys, size) = out_ref.dtype, k_ref.shape
    step, position = pl.program_id(2), position_ref[pl.program_id(0)]
    # Half precision has no more than the default, whatever the caller asks of others.
    exact = {"precision": jax.lax.Precision.DEFAULT, "preferred_element_type": jnp.float32}
    product = functools.partial(jax.lax.dot_general, **exact)

    @pl.when(step == 0)
    def _():
        turn = turns(table_ref[...])

        def head(x, which: int):
            x = x.astype(jnp.float32)
            if how.eps is not None:
                scale = scale_refs[which][...].astype(jnp.float32)
                x = (over_rms(x, how.eps, dtype)[0] * scale).astype(dtype).astype(jnp.float32)
            return turn(x)

        key = head(new_k_ref[...], 1).astype(dtype)
        key_ref[...] = key
        queries[...] = jnp.zeros_like(queries)
        for row in range(how.group):
            query = head(q_ref[:, tile(row)], 0) * size**-0.5
            queries[row : row + 1, :] = query.astype(dtype).astype(jnp.float32)
        score = jnp.sum(queries[...] * key.astype(jnp.float32), axis=1, keepdims=True)
        top[...] = jnp.broadcast_to(score, top.shape)
        total[...] = jnp.ones_like(total)
        values[...] = jnp.broadcast_to(new_v_ref[...].astype(jnp.float32), values.shape)

    def block(v):
        scores = product(queries[...].astype(dtype), k_ref[...], (((1,), (1,)), ((), ())))
        slot = step * keys + jax.lax.broadcasted_iota(jnp.int32, (1, keys), 1)
        scores = jnp.where(slot < position, scores, MASK_VALUE)
        before = top[:, :1]
        most = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
        shares, less = jnp.exp(scores - most), jnp.exp(before - most)
        top[...] = jnp.broadcast_to(most, top.shape)
        total[...] = total[...] * less + jnp.sum(shares, axis=1, keepdims=True)
        values[...] = values[...] * less + product(shares.astype(dtype), v, (((1,), (0,)), ((), ())))

    last, whole = pl.cdiv(slots, keys) - 1, slots % keys == 0

    @pl.when((step * keys < position) & ((step < last) | whole))
    def _():
        block(v_ref[...])

    if not whole:

        @pl.when((last * keys < position) & (step == last))
        def _():  # behind the cache there may be anything: not a number, for one
            slot = jax.lax.broadcasted_iota(jnp.int32, (keys, 1), 0)
            v = jnp.where(slot < slots % keys, v_ref[...].astype(jnp.float32), 0.0)
            block(v.astype(dtype))

    @pl.when(step == last)
    def _():
        out = (values[...] / total[...]).astype(dtype)
        for row in range(how.group):
            out_ref[:, tile(row)] = out[row : row + 1, :]
