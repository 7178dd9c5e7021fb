"""Query/key norm, RoPE and the transpose between token-major and head-major layout on TPUs, in one pass.

Projections give token-major heads, [B, L, N*H]; splash attention takes head-major ones, [B, N, L, H]. With
H = 128 both consist of the same tiles in another order, so the transpose costs only memory traffic. XLA runs
norm, rotation and transpose as separate fusions, which take most of the time beside matmuls and attention by
its own estimate (docs/results/optimization-log.md). The kernels here fuse the three, and their gradients.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tempo_jax import sharding
from tempo_jax.models.kernels.cost import KernelArray, KernelCost
from tempo_jax.models.kernels.splash import LANES
from tempo_jax.sharding import DEFAULT_RULES, ShardingRules

MAX_TOKENS_PER_BLOCK = 512
MAX_HEADS_PER_BLOCK = 8
NAME = "qk_norm_rope"  # part of the kernels' names in compiled programs


class HeadNorm(Protocol):
    """An RMS norm over the channels of one head, such as `models.layers.RMSNorm`."""

    eps: float
    scale: Any


def is_supported(dtype, length: int, head_dim: int) -> bool:
    """Whether the kernels take sequences of `length` tokens: bfloat16, heads and lengths that fill tiles."""
    return dtype == jnp.bfloat16 and head_dim == LANES and length % LANES == 0


def to_head_major(
    x_BLW,
    *,
    norm: HeadNorm | None = None,
    angles_BLR=None,
    scale: float = 1.0,
    rules: ShardingRules = DEFAULT_RULES,
    interpret: bool = False,
) -> jax.Array:
    """Norms, rotates and scales every head, and transposes [B, L, N*H] to [B, N, L, H = 128].

    Args:
      x_BLW: Queries, keys or values as a projection gives them.
      norm: RMS norm applied to every head; None to leave it out.
      angles_BLR: float32 [B or 1, L, H/2], angles of `rope.rotate`; None for no rotation.
      scale: Factor applied last.
      rules: How examples and heads are split over the mesh.
      interpret: Runs the kernel's code on a CPU, for tests.

    Returns:
      [B, N, L, H] in x's dtype.
    """
    config = _KernelConfig(None if norm is None else norm.eps, angles_BLR is not None, scale, interpret)
    batch, _, width = x_BLW.shape
    norm_scale = table = None
    if norm is not None:  # one copy per example, so that each chip sums the gradient of its own examples
        norm_scale = jnp.broadcast_to(norm.scale[...], (batch, 1, LANES))
    if angles_BLR is not None:
        table = jnp.concatenate([jnp.cos(angles_BLR), jnp.sin(angles_BLR)], -1)
        table = jnp.broadcast_to(table, (batch, *table.shape[1:]))
    batch_axes, head_axes = _mesh_axes(batch, width // LANES, rules)
    in_specs = (jax.P(batch_axes, None, head_axes), jax.P(batch_axes), jax.P(batch_axes))
    run = functools.partial(_to_head_major, config)
    return sharding.shard_map_local(run, in_specs, jax.P(batch_axes, head_axes))(x_BLW, norm_scale, table)


def from_head_major(x_BNLH, *, rules: ShardingRules = DEFAULT_RULES, interpret: bool = False) -> jax.Array:
    """Transposes [B, N, L, H = 128] to [B, L, N*H]."""
    config = _KernelConfig(None, False, 1.0, interpret)
    batch_axes, head_axes = _mesh_axes(*x_BNLH.shape[:2], rules)
    run = functools.partial(_from_head_major, config)
    in_specs = (jax.P(batch_axes, head_axes),)
    return sharding.shard_map_local(run, in_specs, jax.P(batch_axes, None, head_axes))(x_BNLH)


def cost(name: str, operands: Sequence[KernelArray], results: Sequence[KernelArray]) -> KernelCost:
    """The kernels copy their operands to their results and compute next to nothing."""
    return KernelCost(0.0, LANES, copied_bytes=sum(x.nbytes for x in (*operands, *results)))


class _KernelConfig(NamedTuple):
    eps: float | None  # None: no norm
    apply_rope: bool
    scale: float
    interpret: bool

    @property
    def only_transposes(self) -> bool:
        return self.eps is None and not self.apply_rope and self.scale == 1


def _mesh_axes(batch: int, heads: int, rules: ShardingRules):
    """Mesh axes that examples and heads are split over."""
    mesh = jax.sharding.get_abstract_mesh()
    return sharding.partition_spec(("batch", "heads"), (batch, heads), mesh, rules)


class _Grid:
    """Steps over examples, blocks of tokens and, innermost, blocks of heads; with the specs of all arrays.

    With the heads innermost, a block of the table of angles is fetched once for all of them.
    """

    def __init__(self, batch: int, length: int, heads: int):
        self.tokens = LANES * _largest_divisor(length // LANES, MAX_TOKENS_PER_BLOCK // LANES)
        self.heads = _largest_divisor(heads, MAX_HEADS_PER_BLOCK)
        self.steps = (batch, length // self.tokens, heads // self.heads)

    @property
    def token_major(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.tokens, self.heads * LANES), lambda b, t, h: (b, t, h))

    @property
    def head_major(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.heads, self.tokens, LANES), lambda b, t, h: (b, h, t, 0))

    @property
    def norm_scale(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, 1, LANES), lambda b, t, h: (b, 0, 0))

    @property
    def table(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.tokens, LANES), lambda b, t, h: (b, t, 0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _to_head_major(config: _KernelConfig, x, norm_scale, table):
    batch, length, width = x.shape
    grid = _Grid(batch, length, width // LANES)
    return _call(
        _fwd_kernel,
        config,
        grid,
        inputs=[(x, grid.token_major), (norm_scale, grid.norm_scale), (table, grid.table)],
        out_shape=jax.ShapeDtypeStruct((batch, width // LANES, length, LANES), x.dtype),
        out_specs=grid.head_major,
    )


def _fwd(config: _KernelConfig, x, norm_scale, table):
    return _to_head_major(config, x, norm_scale, table), (
        x if config.eps is not None else None,
        norm_scale,
        table,
    )


def _bwd(config: _KernelConfig, residuals, d_BNLH):
    x, norm_scale, table = residuals
    batch, heads, length, _ = d_BNLH.shape
    grid = _Grid(batch, length, heads)
    d_x = jax.ShapeDtypeStruct((batch, length, heads * LANES), d_BNLH.dtype)
    d_table = None if table is None else jnp.zeros_like(table)  # positions are not trained
    if config.eps is None:
        d_x = _call(
            _bwd_kernel,
            config,
            grid,
            inputs=[(d_BNLH, grid.head_major), (table, grid.table)],
            out_shape=d_x,
            out_specs=grid.token_major,
        )
        return d_x, None, d_table
    d_x, d_norm_scale = _call(
        _norm_bwd_kernel,
        config,
        grid,
        inputs=[
            (d_BNLH, grid.head_major),
            (x, grid.token_major),
            (norm_scale, grid.norm_scale),
            (table, grid.table),
        ],
        out_shape=(d_x, jax.ShapeDtypeStruct(norm_scale.shape, jnp.float32)),
        out_specs=(grid.token_major, grid.norm_scale),
        accumulates=True,
    )
    return d_x, d_norm_scale.astype(norm_scale.dtype), d_table


_to_head_major.defvjp(_fwd, _bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _from_head_major(config: _KernelConfig, x):
    batch, heads, length, _ = x.shape
    grid = _Grid(batch, length, heads)
    return _call(
        _bwd_kernel,
        config,
        grid,
        inputs=[(x, grid.head_major)],
        out_shape=jax.ShapeDtypeStruct((batch, length, heads * LANES), x.dtype),
        out_specs=grid.token_major,
    )


_from_head_major.defvjp(
    lambda config, x: (_from_head_major(config, x), None),
    lambda config, _, d: (_to_head_major(config, d, None, None),),
)


def _call(
    kernel: Callable,
    config: _KernelConfig,
    grid: _Grid,
    *,
    inputs: list[tuple[jax.Array | None, pl.BlockSpec]],
    out_shape: Any,
    out_specs: Any,
    accumulates: bool = False,
):
    """Runs `kernel` over the grid. Inputs that are None are left out.

    accumulates: whether a result sums over the steps of an example, which then must run in order.
    """
    inputs = [(x, spec) for x, spec in inputs if x is not None]
    args = [x for x, _ in inputs]
    nbytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((args, out_shape)))
    return pl.pallas_call(
        functools.partial(kernel, config),
        grid=grid.steps,
        in_specs=[spec for _, spec in inputs],
        out_specs=out_specs,
        out_shape=out_shape,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", *["arbitrary" if accumulates else "parallel"] * 2)
        ),
        cost_estimate=pl.CostEstimate(flops=0, transcendentals=0, bytes_accessed=nbytes),
        name=f"{NAME}{kernel.__name__.removesuffix('_kernel')}",
        interpret=config.interpret,
    )(*args)


def _largest_divisor(count: int, maximum: int) -> int:
    return max(n for n in range(1, maximum + 1) if count % n == 0)


def _fwd_kernel(config: _KernelConfig, x_ref, *refs):
    *refs, out_ref = refs
    norm_scale, rotate = _norm_scale_and_rope(config, refs)
    for head in range(out_ref.shape[0]):
        x = x_ref[:, head_lanes(head)]
        if config.only_transposes:
            out_ref[head] = x
            continue
        x = x.astype(jnp.float32)
        if norm_scale is not None:
            normed, _, _ = rms_normalize(x, config.eps, out_ref.dtype)
            x = (normed * norm_scale).astype(out_ref.dtype).astype(jnp.float32)
        out_ref[head] = (rotate(x) * config.scale).astype(out_ref.dtype)


def _bwd_kernel(config: _KernelConfig, d_ref, *refs):
    *refs, out_ref = refs
    _, rotate = _norm_scale_and_rope(config, refs, inverse=True)
    for head in range(d_ref.shape[0]):
        if config.only_transposes:
            out_ref[:, head_lanes(head)] = d_ref[head]
        else:
            d = rotate(d_ref[head].astype(jnp.float32) * config.scale)
            out_ref[:, head_lanes(head)] = d.astype(out_ref.dtype)


def _norm_bwd_kernel(config: _KernelConfig, d_ref, x_ref, *refs):
    *refs, out_ref, d_scale_ref = refs
    norm_scale, rotate = _norm_scale_and_rope(config, refs, inverse=True)

    @pl.when((pl.program_id(1) == 0) & (pl.program_id(2) == 0))
    def _():
        d_scale_ref[...] = jnp.zeros_like(d_scale_ref)

    total = jnp.zeros(d_scale_ref.shape, jnp.float32)
    for head in range(d_ref.shape[0]):
        d = rotate(d_ref[head].astype(jnp.float32) * config.scale)
        x = x_ref[:, head_lanes(head)].astype(jnp.float32)
        normed, inverse_rms, exact = rms_normalize(x, config.eps, x_ref.dtype)
        total += jnp.sum(d * normed, axis=0, keepdims=True)
        d = d * norm_scale
        d = inverse_rms * (d - exact * jnp.mean(d * exact, axis=1, keepdims=True))
        out_ref[:, head_lanes(head)] = d.astype(out_ref.dtype)
    d_scale_ref[...] += total


def head_lanes(head: int) -> slice:
    """The lanes of a head in token-major layout."""
    return slice(head * LANES, (head + 1) * LANES)


def rms_normalize(x, eps: float, dtype):
    """Divides float32 x by its root mean square.

    Returns the quotient rounded to dtype, the inverse of the root mean square, and the unrounded quotient;
    all float32.
    """
    inverse_rms = jax.lax.rsqrt(jnp.mean(x * x, axis=1, keepdims=True) + eps)
    exact = x * inverse_rms
    return exact.astype(dtype).astype(jnp.float32), inverse_rms, exact


def _norm_scale_and_rope(config: _KernelConfig, refs, *, inverse: bool = False):
    """The norm's scale, float32 [1, H] or None, and the rotation (the identity without RoPE)."""
    refs = list(refs)
    norm_scale = refs.pop(0)[...].astype(jnp.float32) if config.eps is not None else None
    return norm_scale, rope_fn(refs.pop(0)[...], inverse=inverse) if config.apply_rope else lambda x: x


def rope_fn(table, *, inverse: bool = False) -> Callable:
    """The rotation of heads, float32 [T or 1, H]; inverse: by the negative angles, as gradients need it.

    table: cosines and sines, [T or 1, H/2] each, concatenated.
    """
    swapped = pltpu.roll(table, LANES // 2, 1)
    is_first_half = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1) < LANES // 2
    cosine, sine = jnp.where(is_first_half, table, swapped), jnp.where(is_first_half, -swapped, table)
    sine = -sine if inverse else sine
    return lambda x: x * cosine + pltpu.roll(x, LANES // 2, 1) * sine
