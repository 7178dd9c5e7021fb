"""Splash attention, JAX's blockwise TPU kernel, forward and fused backward, on every chip of a mesh.

The kernel itself is `jax.experimental.pallas.ops.tpu.splash_attention`. This module adds block sizes (the
kernel's own choice would query a TPU, which ahead-of-time compilation does not have), padding, masks, and the
mesh.
"""

import functools
import math
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from tempo_jax import sharding
from tempo_jax.models.kernels.cost import KernelArray, KernelCost
from tempo_jax.sharding import DEFAULT_RULES, ShardingRules

LANES = 128  # sequence lengths are padded to multiples of this
MAX_BLOCK = 1024  # queries or keys in VMEM at once
SUPPORTED_HEAD_DIMS = (64, 128, 256)
CHECKPOINT_NAME = (
    "attention"  # the attention outputs' name in rematerialization policies (layers.REMAT_POLICIES)
)
NAME = "splash"  # part of the kernel's name in compiled programs


def is_supported(q_BTNH, k_BSKH) -> bool:
    """Whether the kernel takes these: bfloat16 (float32 stays exact with XLA), at least LANES queries."""
    is_bfloat16 = q_BTNH.dtype == jnp.bfloat16 and k_BSKH.dtype == jnp.bfloat16
    return is_bfloat16 and q_BTNH.shape[-1] in SUPPORTED_HEAD_DIMS and q_BTNH.shape[1] >= LANES


def splash_attention(
    q_BTNH,
    k_BSKH,
    v_BSKH,
    *,
    scale: float | None = None,
    causal: bool = False,
    kv_valid_BS=None,
    segment_ids_BT=None,
    rules: ShardingRules = DEFAULT_RULES,
    interpret: bool = False,
) -> jax.Array:
    """Computes what `attention.attention` computes, with the same arguments; [B, T, N, H] in q's dtype.

    interpret: runs the kernel's code on a CPU, for tests.
    """
    queries, keys = q_BTNH.shape[1], k_BSKH.shape[1]
    scaled = q_BTNH if scale == 1 else q_BTNH * (q_BTNH.shape[-1] ** -0.5 if scale is None else scale)
    q = _pad_length(scaled).transpose(0, 2, 1, 3)
    k, v = (_pad_length(x).transpose(0, 2, 1, 3) for x in (k_BSKH, v_BSKH))
    segment_ids = _segment_ids(queries, keys, causal, kv_valid_BS, segment_ids_BT, q.shape[0])
    run = functools.partial(_vmapped_kernel, offset=keys - queries if causal else None, interpret=interpret)
    out = _on_mesh(run, q, k, v, segment_ids, rules)
    return out.transpose(0, 2, 1, 3)[:, :queries].astype(q_BTNH.dtype)


def _pad_length(x_BLNH: jax.Array) -> jax.Array:
    missing = -x_BLNH.shape[1] % LANES
    return jnp.pad(x_BLNH, ((0, 0), (0, missing), (0, 0), (0, 0))) if missing else x_BLNH


def _segment_ids(queries, keys, causal, kv_valid_BS, segment_ids_BT, batch) -> kernel.SegmentIds | None:
    """Segment ids that express all masks but the causal one; None where the causal mask suffices.

    Every query must have a key that it may attend to, since softmax divides by the sum over its keys: padding
    queries get a real segment id, and only padding keys get one of their own.
    """
    unpadded = keys % LANES == 0
    if segment_ids_BT is None and kv_valid_BS is None and (unpadded or (causal and queries == keys)):
        return None
    if segment_ids_BT is None:
        kv_ids = jnp.ones((batch, keys), jnp.int32)
        q_ids = jnp.ones((batch, queries), jnp.int32)
    else:
        kv_ids = segment_ids_BT.astype(jnp.int32)
        q_ids = kv_ids[:, :queries]
    if kv_valid_BS is not None:
        kv_ids = jnp.where(kv_valid_BS, kv_ids, -1)
    q_ids = jnp.pad(q_ids, ((0, 0), (0, -queries % LANES)), mode="edge")
    return kernel.SegmentIds(q_ids, jnp.pad(kv_ids, ((0, 0), (0, -keys % LANES)), constant_values=-1))


def _vmapped_kernel(q_BNTH, k_BKSH, v_BKSH, segment_ids, *, offset: int | None, interpret: bool):
    """The kernel over the examples and heads of one chip."""
    heads, queries, keys = q_BNTH.shape[1], q_BNTH.shape[2], k_BKSH.shape[2]
    if offset is None:
        mask = masks.FullMask((queries, keys))
    else:
        mask = masks.CausalMask((queries, keys), offset=offset)
    splash_kernel = kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=block_sizes(queries, keys, causal=offset is not None),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
        residual_checkpoint_name=CHECKPOINT_NAME,
    )
    return jax.vmap(splash_kernel)(q_BNTH, k_BKSH, v_BKSH, segment_ids)


def block_sizes(queries: int, keys: int, *, causal: bool) -> kernel.BlockSizes:
    """The largest blocks that fit VMEM and divide the lengths; the backward pass is one fused kernel.

    Forward, a causal sequence of one block is cut into two blocks, so that one of four quarters is skipped.
    Backward, every block of keys writes query gradients of its own, and summing them costs about what the
    skipped quarter would save.
    """
    q, kv = _block_length(queries), _block_length(keys)
    parts = 2 if causal and queries == keys == MAX_BLOCK else 1
    return kernel.BlockSizes(
        block_q=q // parts,
        block_kv=kv // parts,
        block_kv_compute=kv // parts,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_kv_dkv_compute=kv,
        use_fused_bwd_kernel=True,
    )


def _block_length(length: int) -> int:
    """The largest multiple of LANES up to MAX_BLOCK that divides `length`, a multiple of LANES."""
    tiles = length // LANES
    return LANES * max(n for n in range(1, MAX_BLOCK // LANES + 1) if tiles % n == 0)


def _on_mesh(run, q, k, v, segment_ids, rules: ShardingRules):
    """Splits examples and heads over the mesh as `rules` say, where they divide."""
    mesh = jax.sharding.get_abstract_mesh()
    # What divides the key/value heads divides the query heads.
    batch, heads = sharding.partition_spec(("batch", "heads"), k.shape[:2], mesh, rules)
    spec = jax.P(batch, heads)
    run = sharding.shard_map_local(run, (spec, spec, spec, jax.P(batch)), spec)
    return run(q, k, v, segment_ids)


def cost(name: str, operands: Sequence[KernelArray], results: Sequence[KernelArray]) -> KernelCost | None:
    """Queries [B, N, T, H] and keys [B, K, S, H]: 2 matmuls of T x S x H per head forward, 5 backward (dkv).

    A causal kernel has the queries' positions, s32[T, 128], as an operand and skips the blocks that are
    masked away entirely. In jax 0.6 the name ends in the lengths of its blocks. Where the backward pass is
    two kernels, their 7 matmuls are counted as 5 (dkv) and 2 (dq).
    """
    shapes = [x.shape for x in operands if x.dtype in ("bf16", "f32") and len(x.shape) >= 3]
    shapes = [shape for shape in shapes if shape[-1] in SUPPORTED_HEAD_DIMS]
    if len(shapes) < 2:
        return None
    (*batch, queries, head_dim), keys = shapes[0], shapes[1][-2]
    causal = any(x.dtype == "s32" and len(x.shape) == 2 for x in operands)
    backward = "dkv" in name.partition("block_")[0]
    fraction = causal_block_fraction(queries, keys, backward, _named_blocks(name)) if causal else 1.0
    matmuls = 5 if backward else 2
    return KernelCost(matmuls * fraction * 2.0 * math.prod(batch) * queries * keys * head_dim, head_dim)


def _named_blocks(name: str) -> tuple[int, int] | None:
    """The lengths of a block's queries and keys where a kernel's name has them."""
    backward = re.search("_(dkv|dq)", name.partition("block_")[0])
    suffix = backward[0] if backward else ""
    found = [re.search(rf"block_{of}{suffix}[_=](\d+)", name) for of in ("q", "kv")]
    return (int(found[0][1]), int(found[1][1])) if found[0] and found[1] else None


def causal_block_fraction(
    queries: int, keys: int, backward: bool, blocks: tuple[int, int] | None = None
) -> float:
    """Fraction of a causal kernel's blocks that it computes; the queries are the last of the keys.

    blocks: the lengths of a block's queries and keys; those of `block_sizes` by default.
    """
    sizes = block_sizes(queries, keys, causal=True)
    q, kv = (sizes.block_q_dkv, sizes.block_kv_dkv) if backward else (sizes.block_q, sizes.block_kv)
    q, kv = blocks or (q, kv)
    ends = range(q + keys - queries, keys + 1, q)
    return sum(-(-end // kv) for end in ends) / (len(ends) * (keys // kv))
