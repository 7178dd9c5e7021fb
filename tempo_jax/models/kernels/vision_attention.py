"""Attention of the vision towers on TPUs: a Pallas kernel on token-major heads, as projections give them.

A tower's heads have 64 channels and a TPU tile has 128 lanes, so arrays with an axis for heads waste half of
what is stored, moved and multiplied. Here heads stay token-major: the kernel takes tiles of 128 lanes, two
heads each, masks the lanes of the other head (its zeros add nothing to a matmul that is 128 deep anyway), and
rotates in VMEM. All keys of an example are in VMEM at once, so softmax needs no running maximum.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tempo_jax import sharding
from tempo_jax.models.kernels import splash
from tempo_jax.models.kernels.cost import KernelArray, KernelCost
from tempo_jax.models.kernels.splash import CHECKPOINT_NAME, LANES
from tempo_jax.sharding import ENCODER_RULES, ShardingRules

MAX_KEYS = 7168  # tokens of an example
MAX_BACKWARD_LENGTH = 2048  # tokens of an example whose gradient this kernel computes
MAX_SCORE_ELEMENTS = 512 * 1024  # float32 scores in VMEM at once; there are a few arrays of them
SINGLE_BLOCK_LENGTH = 512  # up to so many tokens, one step takes a whole example and two tiles of heads
MASK_VALUE = -1e30
NAME = "vision_attention"  # part of the kernels' names in compiled programs


def is_supported(dtype, length: int, width: int, heads: int) -> bool:
    """Whether the kernel takes examples of `length` tokens and width = heads x head_dim.

    It takes bfloat16 (float32 stays exact with XLA), and heads that fill tiles without a remainder.
    """
    head_dim = width // heads
    fills_tiles = head_dim in splash.SUPPORTED_HEAD_DIMS and LANES % head_dim == 0 and width % LANES == 0
    return dtype == jnp.bfloat16 and fills_tiles and _padded_length(length) <= MAX_KEYS


def attend(
    qkv_BLW,
    bias_3W,
    heads: int,
    angles_LR=None,
    *,
    rules: ShardingRules = ENCODER_RULES,
    interpret: bool = False,
) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v of every example, not causal.

    Args:
      qkv_BLW: Queries, keys and values, [B, L, N*H] each, before their bias is added.
      bias_3W: Their biases [3, N*H], added here because the sum of the gradient over tokens costs less here.
      heads: N.
      angles_LR: float32 [L, H/2], angles of queries and keys (`rope.rotate`); None for no rotation.
      rules: How examples are split over the mesh.
      interpret: Runs the kernel's code on a CPU, for tests.

    Returns:
      [B, L, N*H] in the dtype of qkv, under the name that rematerialization policies know as "attention".
    """
    qkv = tuple(qkv_BLW)
    batch, length, width = qkv[0].shape
    padding = ((0, _padded_length(length) - length), (0, 0))
    tables = () if angles_LR is None else tuple(jnp.pad(x, padding) for x in _rope_tables(angles_LR))
    if padding[0][1]:
        qkv = tuple(jnp.pad(x, ((0, 0), *padding)) for x in qkv)
    mesh = jax.sharding.get_abstract_mesh()
    batch_axes = None if mesh.empty else sharding.partition_spec(("batch",), (batch,), mesh, rules)[0]
    config = _KernelConfig(width // heads, length, batch_axes, interpret)
    return checkpoint_name(_attend(config, qkv, bias_3W, tables)[:, :length], CHECKPOINT_NAME)


def cost(name: str, operands: Sequence[KernelArray], results: Sequence[KernelArray]) -> KernelCost:
    """2 matmuls of L x L x W per example forward, 5 backward; the first result is [B, L, W]."""
    batch, length, width = results[0].shape[-3:]
    matmuls = 5 if "backward" in name else 2
    head_dim = int(name.split(f"{NAME}_")[1].split("_")[0])
    return KernelCost(matmuls * 2.0 * batch * length**2 * width, head_dim)


class _KernelConfig(NamedTuple):
    head_dim: int
    keys: int  # tokens of an example, without padding
    batch_axes: Any  # mesh axes that examples are split over
    interpret: bool


def _padded_length(length: int) -> int:
    return -(-length // LANES) * LANES


def _rope_tables(angles_LR) -> tuple[jax.Array, jax.Array]:
    """Cosines, and sines with the sign of rotate-half, of every lane of a tile: float32 [L, LANES] each."""
    cosine, sine = jnp.cos(angles_LR), jnp.sin(angles_LR)
    repeats = LANES // (2 * angles_LR.shape[-1])
    return jnp.tile(cosine, (1, 2 * repeats)), jnp.tile(jnp.concatenate([-sine, sine], -1), (1, repeats))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(config: _KernelConfig, qkv, bias, tables):
    """qkv: [B, L, W] each, L a multiple of LANES."""

    def run(qkv, bias, tables):
        shape, dtype = qkv[0].shape, qkv[0].dtype
        specs = _BlockSpecs(shape, with_rope=bool(tables))
        return pl.pallas_call(
            functools.partial(_forward, head_dim=config.head_dim, keys=config.keys),
            grid=specs.grid,
            in_specs=specs.inputs(),
            out_specs=specs.query_block,
            out_shape=jax.ShapeDtypeStruct(shape, dtype),
            compiler_params=_COMPILER_PARAMS,
            cost_estimate=_cost_estimate(shape, config.head_dim, matmuls=2, arrays=4),
            name=f"{NAME}_{config.head_dim}_forward",
            interpret=config.interpret,
        )(*qkv, bias, *tables * 2)

    return _on_mesh(run, config, (True, False, False), True, qkv, bias, tables)


def _fwd(config: _KernelConfig, qkv, bias, tables):
    return _attend(config, qkv, bias, tables), (qkv, bias, tables)


def _bwd(config: _KernelConfig, residuals, d_out):
    qkv, bias, tables = residuals

    def run(d_out, qkv, bias, tables):
        shape = d_out.shape
        specs = _BlockSpecs(shape, with_rope=bool(tables))
        d_array = jax.ShapeDtypeStruct(shape, d_out.dtype)
        d_bias = jax.ShapeDtypeStruct((len(d_out), *bias.shape), jnp.float32)
        return pl.pallas_call(
            functools.partial(_backward, head_dim=config.head_dim, keys=config.keys),
            grid=specs.grid,
            in_specs=[specs.query_block, *specs.inputs()],
            out_specs=(specs.query_block, specs.full_row, specs.full_row, specs.bias_grad),
            out_shape=(d_array, d_array, d_array, d_bias),
            scratch_shapes=[specs.key_grad_scratch] * 2,
            compiler_params=_COMPILER_PARAMS,
            cost_estimate=_cost_estimate(shape, config.head_dim, matmuls=5, arrays=7),
            name=f"{NAME}_{config.head_dim}_backward",
            interpret=config.interpret,
        )(d_out, *qkv, bias, *tables * 2)

    if d_out.shape[1] > MAX_BACKWARD_LENGTH:
        return jax.vjp(functools.partial(_splash_attend, config), qkv, bias, tables)[1](d_out)
    split = (True, True, False, False)
    *d_qkv, d_bias = _on_mesh(run, config, split, True, d_out, qkv, bias, tables)
    return tuple(d_qkv), d_bias.sum(0).astype(bias.dtype), tuple(map(jnp.zeros_like, tables))


_attend.defvjp(_fwd, _bwd)

_COMPILER_PARAMS = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))


def _cost_estimate(shape, head_dim: int, *, matmuls: int, arrays: int) -> pl.CostEstimate:
    """The estimate for XLA's scheduler. arrays: how many of shape [B, L, W] are read or written."""
    batch, length, width = shape
    return pl.CostEstimate(
        flops=2 * matmuls * batch * length**2 * width,
        transcendentals=batch * length**2 * width // head_dim,
        bytes_accessed=2 * batch * length * width * arrays,
    )


def _on_mesh(run, config: _KernelConfig, split_in, split_out, *args):
    """Splits the first axis of the arguments and results that are marked True over the mesh."""
    specs = jax.tree.map(lambda split: jax.P(config.batch_axes) if split else jax.P(), (split_in, split_out))
    return sharding.shard_map_local(run, *specs)(*args)


def _splash_attend(config: _KernelConfig, qkv, bias, tables):
    """Computes the same with splash attention, for gradients of examples too long for the kernel's own."""

    def rotate(x):
        if not tables:
            return x
        cosine, sine = (table[:, None, : config.head_dim] for table in tables)
        swapped = jnp.concatenate(jnp.split(x, 2, -1)[::-1], -1)
        return (x.astype(jnp.float32) * cosine + swapped.astype(jnp.float32) * sine).astype(x.dtype)

    q, k, v = ((x + b).reshape(*x.shape[:2], -1, config.head_dim) for x, b in zip(qkv, bias, strict=True))
    valid = jnp.broadcast_to(jnp.arange(q.shape[1]) < config.keys, q.shape[:2])
    out = splash.splash_attention(rotate(q), rotate(k), v, kv_valid_BS=valid, interpret=config.interpret)
    return out.reshape(qkv[0].shape)


class _BlockSpecs:
    """Blocks of one call: steps over examples, tiles of heads and, innermost, blocks of queries."""

    def __init__(self, shape: tuple[int, int, int], *, with_rope: bool):
        batch, length, width = shape
        single_block = length <= SINGLE_BLOCK_LENGTH
        max_elements = MAX_SCORE_ELEMENTS if single_block else MAX_SCORE_ELEMENTS // 2
        max_tiles = max(1, max_elements // length // LANES)
        two_tiles = single_block and width % (2 * LANES) == 0
        self.queries = LANES * max(n for n in range(1, max_tiles + 1) if (length // LANES) % n == 0)
        self.lanes = 2 * LANES if two_tiles else LANES
        self.length, self.with_rope = length, with_rope
        self.grid = (batch, width // self.lanes, length // self.queries)

    def inputs(self) -> list[pl.BlockSpec]:
        """Specs of q, k, v, their biases, and the RoPE tables of queries and of keys."""
        query_table = pl.BlockSpec((self.queries, LANES), lambda b, h, q: (q, 0))
        key_table = pl.BlockSpec((self.length, LANES), lambda b, h, q: (0, 0))
        bias = pl.BlockSpec((3, self.lanes), lambda b, h, q: (0, h))
        tables = [query_table, query_table, key_table, key_table] if self.with_rope else []
        return [self.query_block, self.full_row, self.full_row, bias, *tables]

    @property
    def query_block(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.queries, self.lanes), lambda b, h, q: (b, q, h))

    @property
    def full_row(self) -> pl.BlockSpec:
        """All tokens of an example; key and value gradients are complete after the last query block."""
        return pl.BlockSpec((None, self.length, self.lanes), lambda b, h, q: (b, 0, h))

    @property
    def bias_grad(self) -> pl.BlockSpec:
        """Sums of the gradients of q, k and v over an example's tokens."""
        return pl.BlockSpec((None, 3, self.lanes), lambda b, h, q: (b, 0, h))

    @property
    def key_grad_scratch(self):
        return pltpu.VMEM((self.length, self.lanes), jnp.float32)


def _forward(q_ref, k_ref, v_ref, bias_ref, *refs, head_dim: int, keys: int):
    *tables, out_ref = refs
    lane = _lanes()
    for tile in _tiles(q_ref):
        q, k, v = _load_qkv(q_ref, k_ref, v_ref, bias_ref, tables, tile, head_dim)
        out = jnp.zeros(q.shape, jnp.float32)
        for head in range(LANES // head_dim):
            head_mask = jax.lax.div(lane, head_dim) == head
            scores = _dot(jnp.where(head_mask, q, 0), k, 1, 1)
            if keys < scores.shape[1]:
                scores = jnp.where(_iota(scores, 1) < keys, scores, MASK_VALUE)
            probs = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
            total = jnp.sum(probs, axis=1, keepdims=True)
            out = jnp.where(head_mask, _dot(probs.astype(v.dtype), v, 1, 0) / total, out)
        out_ref[:, tile] = out.astype(out_ref.dtype)


def _backward(d_ref, q_ref, k_ref, v_ref, bias_ref, *refs, head_dim: int, keys: int):
    """Recomputes scores, keys first, [S, T], so that a single matmul has to transpose them."""
    *tables, dq_ref, dk_ref, dv_ref, bias_grad_ref, dk_sum, dv_sum = refs
    block, lane = pl.program_id(2), _lanes()

    @pl.when(block == 0)
    def _():
        for sums in (dk_sum, dv_sum, bias_grad_ref):
            sums[...] = jnp.zeros_like(sums)

    for tile in _tiles(q_ref):
        q, k, v = _load_qkv(q_ref, k_ref, v_ref, bias_ref, tables, tile, head_dim)
        d = d_ref[:, tile]
        dq = jnp.zeros(q.shape, jnp.float32)
        dk = dv = jnp.zeros(k.shape, jnp.float32)
        for head in range(LANES // head_dim):
            head_mask = jax.lax.div(lane, head_dim) == head
            q_head, d_head = jnp.where(head_mask, q, 0), jnp.where(head_mask, d, 0)
            scores = _dot(k, q_head, 1, 1)
            if keys < scores.shape[0]:
                scores = jnp.where(_iota(scores, 0) < keys, scores, MASK_VALUE)
            probs = jnp.exp(scores - jnp.max(scores, axis=0, keepdims=True))
            probs = probs / jnp.sum(probs, axis=0, keepdims=True)
            d_probs = _dot(v, d_head, 1, 1)
            d_scores = probs * (d_probs - jnp.sum(probs * d_probs, axis=0, keepdims=True))
            d_scores = d_scores.astype(k.dtype)
            dv += _dot(probs.astype(d.dtype), d_head, 1, 0)
            dk += _dot(d_scores, q_head, 1, 0)
            dq = jnp.where(head_mask, _dot(d_scores, k, 0, 0), dq)
        dk_sum[:, tile] += dk
        dv_sum[:, tile] += dv
        dq = _rotate(dq, tables[:2], head_dim, inverse=True) * head_dim**-0.5
        dq_ref[:, tile] = dq.astype(dq_ref.dtype)
        bias_grad_ref[:1, tile] += jnp.sum(dq, axis=0, keepdims=True)

    @pl.when(block == pl.num_programs(2) - 1)
    def _():
        for tile in _tiles(q_ref):
            dk, dv = _rotate(dk_sum[:, tile], tables[2:], head_dim, inverse=True), dv_sum[:, tile]
            for index, ref, x in ((1, dk_ref, dk), (2, dv_ref, dv)):
                ref[:, tile] = x.astype(ref.dtype)
                bias_grad_ref[index : index + 1, tile] = jnp.sum(x, axis=0, keepdims=True)


def _load_qkv(q_ref, k_ref, v_ref, bias_ref, tables, tile: slice, head_dim: int):
    """Queries, keys and values of a tile, biased and rotated; queries also scaled by head_dim^-0.5."""

    def biased(ref, index):
        return ref[:, tile].astype(jnp.float32) + bias_ref[index : index + 1, tile].astype(jnp.float32)

    dtype = q_ref.dtype
    q, k, v = (biased(ref, index).astype(dtype) for index, ref in enumerate((q_ref, k_ref, v_ref)))
    q = _rotate(q.astype(jnp.float32), tables[:2], head_dim).astype(dtype).astype(jnp.float32)
    k = _rotate(k.astype(jnp.float32), tables[2:], head_dim).astype(dtype)
    return (q * head_dim**-0.5).astype(dtype), k, v


def _tiles(ref) -> list[slice]:
    return [slice(start, start + LANES) for start in range(0, ref.shape[-1], LANES)]


def _lanes() -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)


def _iota(x: jax.Array, axis: int) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)


def _dot(a, b, axis_a: int, axis_b: int) -> jax.Array:
    """Contracts those axes, float32; Mosaic refuses bfloat16 where a higher precision is asked for."""
    dimensions = (((axis_a,), (axis_b,)), ((), ()))
    precision = jax.lax.Precision.DEFAULT if a.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
    return jax.lax.dot_general(a, b, dimensions, precision, preferred_element_type=jnp.float32)


def _rotate(x, tables, head_dim: int, *, inverse: bool = False):
    """RoPE on float32 x; inverse: by the negative angles, as gradients need it. Without tables, x itself."""
    if not tables:
        return x
    cosine, sine = tables
    half = head_dim // 2
    is_first_half = jax.lax.rem(_lanes(), head_dim) < half
    swapped = jnp.where(is_first_half, pltpu.roll(x, LANES - half, 1), pltpu.roll(x, half, 1))
    return x * cosine[...] + swapped * (-sine[...] if inverse else sine[...])
