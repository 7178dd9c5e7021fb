"""Heads on their way from a projection to attention and back on TPUs: Pallas kernels.

Projections give heads side by side, [B, L, N*H]; splash attention wants them one after the other,
[B, N, L, H]. With heads of 128 both are the same tiles in another order, so moving them is all that costs.
Left to XLA, the norm of queries and keys, their rotation and the turn to heads take most of the time beside
products and attention, by its estimate (docs/plans.md). Here one pass over the array does the three, and its
gradient another.
"""

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tempo_jax import sharding
from tempo_jax.models.kernels.splash import LANES

MAX_TOKENS_PER_BLOCK = 512  # tokens of a step, at most
MAX_HEADS_PER_BLOCK = 8  # heads of a step, at most
NAME = "head_layout"  # the planner knows the kernels by it


class HeadNorm(Protocol):
    """An RMS norm over the channels of one head, as `models.layers.RMSNorm`."""

    eps: float
    scale: Any


def is_supported(dtype, length: int, size: int) -> bool:
    """Whether the kernels take heads of `size` of rows of `length`: half precision, as splash attention."""
    return dtype == jnp.bfloat16 and size == LANES and length % LANES == 0


def to_head_major(
    x_BLW, *, norm: HeadNorm | None = None, angles_BLR=None, scale: float = 1.0, interpret: bool = False
) -> jax.Array:
    """Heads after heads, [B, N, L, H = 128], of heads side by side, [B, L, N*H]; in x's dtype.

    First normed, every head with the same scale, then rotated by float32 [B or 1, L, H/2] (`rope.rotate`),
    then multiplied. interpret: runs the kernel's own code on a CPU, for tests.
    """
    how = _How(None if norm is None else norm.eps, angles_BLR is not None, scale, interpret)
    batch, _, width = x_BLW.shape
    scale = table = None
    if norm is not None:  # a row of the batch each, so that a chip sums the gradient of its own
        scale = jnp.broadcast_to(norm.scale[...], (batch, 1, LANES))
    if angles_BLR is not None:
        table = jnp.concatenate([jnp.cos(angles_BLR), jnp.sin(angles_BLR)], -1)
        table = jnp.broadcast_to(table, (batch, *table.shape[1:]))
    rows, heads = _split(batch, width // LANES)
    where = (jax.P(rows, None, heads), jax.P(rows), jax.P(rows))
    run = functools.partial(_apart, how)
    return sharding.shard_map_local(run, where, jax.P(rows, heads))(x_BLW, scale, table)


def from_head_major(x_BNLH, *, interpret: bool = False) -> jax.Array:
    """The way back: [B, L, N*H] of [B, N, L, H = 128]."""
    how = _How(None, False, 1.0, interpret)
    rows, heads = _split(*x_BNLH.shape[:2])
    run = functools.partial(_together, how)
    return sharding.shard_map_local(run, (jax.P(rows, heads),), jax.P(rows, None, heads))(x_BNLH)


class _How(NamedTuple):
    eps: float | None  # without a norm
    rotates: bool
    times: float
    interpret: bool

    @property
    def only_moves(self) -> bool:
        return self.eps is None and not self.rotates and self.times == 1


def _split(batch: int, heads: int):
    """Mesh axes that rows and heads are split over."""
    return sharding.partition_spec(("segments", "heads"), (batch, heads), jax.sharding.get_abstract_mesh())


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apart(how: _How, x, scale, table):
    batch, length, width = x.shape
    out = jax.ShapeDtypeStruct((batch, width // LANES, length, LANES), x.dtype)
    return _call(_apart_kernel, how, out, x, scale, table)


def _apart_saving(how: _How, x, scale, table):
    return _apart(how, x, scale, table), (x if how.eps is not None else None, scale, table)


def _apart_gradient(how: _How, saved, d_BNLH):
    x, scale, table = saved
    batch, heads, length, _ = d_BNLH.shape
    d_x = jax.ShapeDtypeStruct((batch, length, heads * LANES), d_BNLH.dtype)
    d_table = None if table is None else jnp.zeros_like(table)  # positions do not learn
    if how.eps is None:
        return _call(_back_kernel, how, d_x, d_BNLH, table), None, d_table
    d_scale = jax.ShapeDtypeStruct(scale.shape, jnp.float32)
    d_x, d_scale = _call(_normed_back_kernel, how, (d_x, d_scale), d_BNLH, x, scale, table)
    return d_x, d_scale.astype(scale.dtype), d_table


_apart.defvjp(_apart_saving, _apart_gradient)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _together(how: _How, x):
    batch, heads, length, _ = x.shape
    return _call(_back_kernel, how, jax.ShapeDtypeStruct((batch, length, heads * LANES), x.dtype), x)


_together.defvjp(lambda how, x: (_together(how, x), None), lambda how, _, d: (_apart(how, d, None, None),))


def _call(kernel, how: _How, out, *args):
    """Steps over rows of the batch, blocks of tokens, and, innermost, blocks of heads; so a block of the
    table is fetched once. Arrays are known by their axes."""
    args = [x for x in args if x is not None]
    heads = next(x.shape[1] for x in jax.tree.leaves((args, out)) if len(x.shape) == 4)
    length = next(x.shape[2] for x in jax.tree.leaves((args, out)) if len(x.shape) == 4)
    rows = LANES * _divisor(length // LANES, MAX_TOKENS_PER_BLOCK // LANES)
    tiles = _divisor(heads, MAX_HEADS_PER_BLOCK)

    def block(x) -> pl.BlockSpec:
        if len(x.shape) == 4:
            return pl.BlockSpec((None, tiles, rows, LANES), lambda b, t, h: (b, h, t, 0))
        if x.shape[1] == 1:
            return pl.BlockSpec((None, 1, LANES), lambda b, t, h: (b, 0, 0))
        if x.shape[2] == LANES and x.dtype == jnp.float32:
            return pl.BlockSpec((None, rows, LANES), lambda b, t, h: (b, t, 0))
        return pl.BlockSpec((None, rows, tiles * LANES), lambda b, t, h: (b, t, h))

    moved = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((args, out)))
    summed = kernel is _normed_back_kernel  # over all steps of a row of the batch
    return pl.pallas_call(
        functools.partial(kernel, how),
        grid=(args[0].shape[0], length // rows, heads // tiles),
        in_specs=[block(x) for x in args],
        out_specs=jax.tree.map(block, out),
        out_shape=out,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", *["arbitrary" if summed else "parallel"] * 2)
        ),
        cost_estimate=pl.CostEstimate(flops=0, transcendentals=0, bytes_accessed=moved),
        name=f"{NAME}{kernel.__name__}",
        interpret=how.interpret,
    )(*args)


def _divisor(count: int, most: int) -> int:
    return max(n for n in range(1, most + 1) if count % n == 0)


def _apart_kernel(how: _How, x_ref, *refs):
    *refs, out_ref = refs
    scale, turn = _scale_and_turn(how, refs)
    for head in range(out_ref.shape[0]):
        x = x_ref[:, tile(head)]
        if how.only_moves:
            out_ref[head] = x
            continue
        x = x.astype(jnp.float32)
        if scale is not None:
            normed, _, _ = over_rms(x, how.eps, out_ref.dtype)
            x = (normed * scale).astype(out_ref.dtype).astype(jnp.float32)
        out_ref[head] = (turn(x) * how.times).astype(out_ref.dtype)


def _back_kernel(how: _How, d_ref, *refs):
    *refs, out_ref = refs
    _, turn = _scale_and_turn(how, refs, back=True)
    for head in range(d_ref.shape[0]):
        if how.only_moves:
            out_ref[:, tile(head)] = d_ref[head]
        else:
            d = turn(d_ref[head].astype(jnp.float32) * how.times)
            out_ref[:, tile(head)] = d.astype(out_ref.dtype)


def _normed_back_kernel(how: _How, d_ref, x_ref, *refs):
    *refs, out_ref, d_scale_ref = refs
    scale, turn = _scale_and_turn(how, refs, back=True)

    @pl.when((pl.program_id(1) == 0) & (pl.program_id(2) == 0))
    def _():
        d_scale_ref[...] = jnp.zeros_like(d_scale_ref)

    total = jnp.zeros(d_scale_ref.shape, jnp.float32)
    for head in range(d_ref.shape[0]):
        d = turn(d_ref[head].astype(jnp.float32) * how.times)
        normed, inverse, exact = over_rms(x_ref[:, tile(head)].astype(jnp.float32), how.eps, x_ref.dtype)
        total += jnp.sum(d * normed, axis=0, keepdims=True)
        d = d * scale
        d = inverse * (d - exact * jnp.mean(d * exact, axis=1, keepdims=True))
        out_ref[:, tile(head)] = d.astype(out_ref.dtype)
    d_scale_ref[...] += total


def tile(head: int) -> slice:
    return slice(head * LANES, (head + 1) * LANES)


def over_rms(x, eps: float, dtype):
    """x over its root mean square as rounded to dtype, the inverse of that root, and the unrounded quotient;
    all float32."""
    inverse = jax.lax.rsqrt(jnp.mean(x * x, axis=1, keepdims=True) + eps)
    exact = x * inverse
    return exact.astype(dtype).astype(jnp.float32), inverse, exact


def _scale_and_turn(how: _How, refs, *, back: bool = False):
    """The norm's scale, float32 [1, H], where there is one, and the rotation; back: as gradients turn."""
    refs = list(refs)
    scale = refs.pop(0)[...].astype(jnp.float32) if how.eps is not None else None
    return scale, turns(refs.pop(0)[...], back=back) if how.rotates else lambda x: x


def turns(table, *, back: bool = False):
    """The rotation of heads, float32 [T or 1, H], by cosines and sines [T or 1, H/2] beside each other."""
    swapped = pltpu.roll(table, LANES // 2, 1)
    first = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1) < LANES // 2
    cosine, sine = jnp.where(first, table, swapped), jnp.where(first, -swapped, table)
    sine = -sine if back else sine
    return lambda x: x * cosine + pltpu.roll(x, LANES // 2, 1) * sine
