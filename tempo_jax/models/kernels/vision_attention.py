"""Attention of the vision towers on TPUs: a Pallas kernel that takes heads as a projection leaves them.

A tower's heads are 64 wide and a tile of a TPU is 128 lanes, so heads with an axis of their own fill half of
what is stored, moved and multiplied. Here they stay side by side: the kernel takes tiles of 128 lanes, two
heads, masks the lanes of the other one (its zeros add nothing to a product that is 128 deep anyway), and
rotates in VMEM. A row's keys are in VMEM at once, so softmax is taken in one piece.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tempo_jax import sharding
from tempo_jax.models.kernels import splash
from tempo_jax.models.kernels.splash import CHECKPOINT_NAME, LANES

MAX_KEYS = 7168  # of a row, at most
MAX_BACKWARD_LENGTH = 2048  # of a row, at most, whose gradient is the kernel's
MAX_SCORE_ELEMENTS = 512 * 1024  # in VMEM at once, at most; float32, and a few arrays of them
SINGLE_BLOCK_LENGTH = 512  # tokens of a row, at most, of which one step takes all, and two tiles
MASK_VALUE = -1e30
NAME = "vision_attention"  # the planner knows the kernels by it


def is_supported(dtype, length: int, width: int, heads: int) -> bool:
    """Whether the kernel takes rows of `length` tokens, width = heads x size: half precision (float32 stays
    exact with XLA), whole heads in whole tiles."""
    size = width // heads
    tiles = size in splash.SUPPORTED_HEAD_DIMS and LANES % size == 0 and width % LANES == 0
    return dtype == jnp.bfloat16 and tiles and _padded(length) <= MAX_KEYS


def attend(qkv_BLW, bias_3W, heads: int, angles_LR=None, *, interpret: bool = False) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v of every row, not causal: [B, L, N*H] in the dtype of qkv.

    qkv_BLW: queries, keys and values, [B, L, N*H] each, head after head, to which the bias is still to be
    added: the sum of its gradient over all tokens costs less here. angles_LR: float32 [L, H/2], by which
    queries and keys are rotated before (`rope.rotate`). interpret: runs the kernel's own code on a CPU, for
    tests. Rematerialisation knows the result as splash attention's.
    """
    qkv = tuple(qkv_BLW)
    rows, length, width = qkv[0].shape
    padding = ((0, _padded(length) - length), (0, 0))
    tables = () if angles_LR is None else tuple(jnp.pad(x, padding) for x in _tables(angles_LR))
    if padding[0][1]:
        qkv = tuple(jnp.pad(x, ((0, 0), *padding)) for x in qkv)
    how = _How(width // heads, length, _chips(rows), interpret)
    return checkpoint_name(_attend(how, qkv, bias_3W, tables)[:, :length], CHECKPOINT_NAME)


class _How(NamedTuple):
    size: int  # of a head
    keys: int  # of a row, without padding
    chips: Any  # mesh axes that rows are split over; the backward pass is traced where nobody knows any more
    interpret: bool


def _chips(rows: int):
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else sharding.partition_spec(("segments",), (rows,), mesh)[0]


def _padded(length: int) -> int:
    return -(-length // LANES) * LANES


def _tables(angles_LR) -> tuple[jax.Array, jax.Array]:
    """Cosines, and sines with the sign of a quarter turn, of every lane of a tile: float32 [L, LANES]."""
    cosine, sine = jnp.cos(angles_LR), jnp.sin(angles_LR)
    repeats = LANES // (2 * angles_LR.shape[-1])
    return jnp.tile(cosine, (1, 2 * repeats)), jnp.tile(jnp.concatenate([-sine, sine], -1), (1, repeats))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(how, qkv, bias, tables):
    """qkv: [B, L, W] each, L a multiple of LANES."""

    def run(qkv, bias, tables):
        plan = _Plan(qkv[0].shape, how, bool(tables))
        return plan.call(_forward, plan.inputs(), plan.out(), qkv[0], products=2)(*qkv, bias, *tables * 2)

    return _on_mesh(run, how.chips, (True, False, False), True, qkv, bias, tables)


def _saving(how, qkv, bias, tables):
    return _attend(how, qkv, bias, tables), (qkv, bias, tables)


def _gradient(how, saved, d_out):
    qkv, bias, tables = saved

    def run(d_out, qkv, bias, tables):
        plan = _Plan(d_out.shape, how, bool(tables))
        sums = jax.ShapeDtypeStruct((len(d_out), *bias.shape), jnp.float32)
        outputs = (plan.out(), *[plan.whole()] * 2, plan.sums())
        call = plan.call(_backward, [plan.out(), *plan.inputs()], outputs, (*[d_out] * 3, sums), products=5)
        return call(d_out, *qkv, bias, *tables * 2)

    if d_out.shape[1] > MAX_BACKWARD_LENGTH:
        return jax.vjp(functools.partial(_by_heads, how), qkv, bias, tables)[1](d_out)
    split = (True, True, False, False)
    *d_qkv, d_bias = _on_mesh(run, how.chips, split, True, d_out, qkv, bias, tables)
    return tuple(d_qkv), d_bias.sum(0).astype(bias.dtype), tuple(map(jnp.zeros_like, tables))


_attend.defvjp(_saving, _gradient)


def _on_mesh(run, chips, split_in, split_out, *args):
    """Rows, the first axis of what is split, over the chips."""
    specs = jax.tree.map(lambda split: jax.P(chips) if split else jax.P(), (split_in, split_out))
    return sharding.shard_map_local(run, *specs)(*args)


def _by_heads(how, qkv, bias, tables):
    """The same with splash attention, for the gradient of rows so long that the kernel's does not fit."""

    def rotated(x):
        if not tables:
            return x
        cosine, sine = (table[:, None, : how.size] for table in tables)
        swapped = jnp.concatenate(jnp.split(x, 2, -1)[::-1], -1)
        return (x.astype(jnp.float32) * cosine + swapped.astype(jnp.float32) * sine).astype(x.dtype)

    q, k, v = ((x + b).reshape(*x.shape[:2], -1, how.size) for x, b in zip(qkv, bias, strict=True))
    valid = jnp.broadcast_to(jnp.arange(q.shape[1]) < how.keys, q.shape[:2])
    out = splash.splash_attention(rotated(q), rotated(k), v, kv_valid_BS=valid, interpret=how.interpret)
    return out.reshape(qkv[0].shape)


class _Plan:
    """Blocks of one call: steps over rows, tiles of heads, and blocks of queries, the last ones innermost."""

    def __init__(self, shape, how: _How, rotates: bool):
        self.batch, self.length, self.width = shape
        self.how, self.rotates = how, rotates
        whole = self.length <= SINGLE_BLOCK_LENGTH
        rows, most = (
            self.length // LANES,
            max(1, (MAX_SCORE_ELEMENTS if whole else MAX_SCORE_ELEMENTS // 2) // self.length // LANES),
        )
        self.block = LANES * max(n for n in range(1, most + 1) if rows % n == 0)
        pairs = whole and self.width % (2 * LANES) == 0
        self.lanes = 2 * LANES if pairs else LANES

    def inputs(self) -> list[pl.BlockSpec]:
        """Of q, k, v, their biases, and the tables of rotation for queries and for keys."""
        tables = [
            *[pl.BlockSpec((self.block, LANES), lambda b, h, q: (q, 0))] * 2,
            *[pl.BlockSpec((self.length, LANES), lambda b, h, q: (0, 0))] * 2,
        ]
        return [
            self.out(),
            *[self.whole()] * 2,
            pl.BlockSpec((3, self.lanes), lambda b, h, q: (0, h)),
            *(tables if self.rotates else []),
        ]

    def out(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.block, self.lanes), lambda b, h, q: (b, q, h))

    def whole(self) -> pl.BlockSpec:
        """Of a row; gradients of keys and values are complete after the last block of queries."""
        return pl.BlockSpec((None, self.length, self.lanes), lambda b, h, q: (b, 0, h))

    def sums(self) -> pl.BlockSpec:
        """Of those gradients over a row's tokens."""
        return pl.BlockSpec((None, 3, self.lanes), lambda b, h, q: (b, 0, h))

    def call(self, kernel, inputs, outputs, out, *, products: int):
        sums = [pltpu.VMEM((self.length, self.lanes), jnp.float32)] * 2 if kernel is _backward else []
        scores = self.batch * self.length**2 * self.width
        moved = 2 * self.batch * self.length * self.width  # bytes of one array
        return pl.pallas_call(
            functools.partial(kernel, size=self.how.size, keys=self.how.keys),
            grid=(self.batch, self.width // self.lanes, self.length // self.block),
            in_specs=inputs,
            out_specs=outputs,
            out_shape=jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), out),
            scratch_shapes=sums,
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
            cost_estimate=pl.CostEstimate(
                flops=2 * products * scores,
                transcendentals=scores // self.how.size,
                bytes_accessed=moved * (4 if kernel is _forward else 7),
            ),
            name=f"{NAME}_{self.how.size}{kernel.__name__}",
            interpret=self.how.interpret,
        )


def _forward(q_ref, k_ref, v_ref, bias_ref, *refs, size: int, keys: int):
    *tables, out_ref = refs
    lane = _lanes()
    for tile in _tiles(q_ref):
        q, k, v = _inputs(q_ref, k_ref, v_ref, bias_ref, tables, tile, size)
        out = jnp.zeros(q.shape, jnp.float32)
        for head in range(LANES // size):
            own = jax.lax.div(lane, size) == head
            scores = _product(jnp.where(own, q, 0), k, 1, 1)
            if keys < scores.shape[1]:
                scores = jnp.where(_iota(scores, 1) < keys, scores, MASK_VALUE)
            shares = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
            total = jnp.sum(shares, axis=1, keepdims=True)
            out = jnp.where(own, _product(shares.astype(v.dtype), v, 1, 0) / total, out)
        out_ref[:, tile] = out.astype(out_ref.dtype)


def _backward(d_ref, q_ref, k_ref, v_ref, bias_ref, *refs, size: int, keys: int):
    """Scores are formed again, keys first, [S, T], so that one product alone has to turn them."""
    *tables, dq_ref, dk_ref, dv_ref, bias_out_ref, dk_sum, dv_sum = refs
    block, lane = pl.program_id(2), _lanes()

    @pl.when(block == 0)
    def _():
        for sums in (dk_sum, dv_sum, bias_out_ref):
            sums[...] = jnp.zeros_like(sums)

    for tile in _tiles(q_ref):
        q, k, v = _inputs(q_ref, k_ref, v_ref, bias_ref, tables, tile, size)
        d = d_ref[:, tile]
        dq = jnp.zeros(q.shape, jnp.float32)
        dk = dv = jnp.zeros(k.shape, jnp.float32)
        for head in range(LANES // size):
            own = jax.lax.div(lane, size) == head
            q_own, d_own = jnp.where(own, q, 0), jnp.where(own, d, 0)
            scores = _product(k, q_own, 1, 1)
            if keys < scores.shape[0]:
                scores = jnp.where(_iota(scores, 0) < keys, scores, MASK_VALUE)
            shares = jnp.exp(scores - jnp.max(scores, axis=0, keepdims=True))
            shares = shares / jnp.sum(shares, axis=0, keepdims=True)
            d_shares = _product(v, d_own, 1, 1)
            d_scores = shares * (d_shares - jnp.sum(shares * d_shares, axis=0, keepdims=True))
            d_scores = d_scores.astype(k.dtype)
            dv += _product(shares.astype(d.dtype), d_own, 1, 0)
            dk += _product(d_scores, q_own, 1, 0)
            dq = jnp.where(own, _product(d_scores, k, 0, 0), dq)
        dk_sum[:, tile] += dk
        dv_sum[:, tile] += dv
        dq = _rotated(dq, tables[:2], size, back=True) * size**-0.5
        dq_ref[:, tile] = dq.astype(dq_ref.dtype)
        bias_out_ref[:1, tile] += jnp.sum(dq, axis=0, keepdims=True)

    @pl.when(block == pl.num_programs(2) - 1)
    def _():
        for tile in _tiles(q_ref):
            dk, dv = _rotated(dk_sum[:, tile], tables[2:], size, back=True), dv_sum[:, tile]
            for part, ref, x in ((1, dk_ref, dk), (2, dv_ref, dv)):
                ref[:, tile] = x.astype(ref.dtype)
                bias_out_ref[part : part + 1, tile] = jnp.sum(x, axis=0, keepdims=True)


def _inputs(q_ref, k_ref, v_ref, bias_ref, tables, tile: slice, size: int):
    """Queries, scaled, keys and values as they are multiplied."""

    def biased(ref, part):
        return ref[:, tile].astype(jnp.float32) + bias_ref[part : part + 1, tile].astype(jnp.float32)

    half = q_ref.dtype
    q, k, v = (biased(ref, part).astype(half) for part, ref in enumerate((q_ref, k_ref, v_ref)))
    q = _rotated(q.astype(jnp.float32), tables[:2], size).astype(half).astype(jnp.float32)
    k = _rotated(k.astype(jnp.float32), tables[2:], size).astype(half)
    return (q * size**-0.5).astype(half), k, v


def _tiles(ref) -> list[slice]:
    return [slice(start, start + LANES) for start in range(0, ref.shape[-1], LANES)]


def _lanes() -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)


def _iota(x: jax.Array, axis: int) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)


def _product(a, b, axis_a: int, axis_b: int) -> jax.Array:
    """Summed over those axes, float32; Mosaic refuses half precision where a caller asks for more."""
    dimensions = (((axis_a,), (axis_b,)), ((), ()))
    precision = jax.lax.Precision.DEFAULT if a.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
    return jax.lax.dot_general(a, b, dimensions, precision, preferred_element_type=jnp.float32)


def _rotated(x, tables, size: int, *, back: bool = False):
    """x, float32, turned by the angles, or as it is without; back: by minus them, as gradients are."""
    if not tables:
        return x
    cosine, sine = tables
    half = size // 2
    first = jax.lax.rem(_lanes(), size) < half
    swapped = jnp.where(first, pltpu.roll(x, LANES - half, 1), pltpu.roll(x, half, 1))
    return x * cosine[...] + swapped * (-sine[...] if back else sine[...])
