"""Splash attention, JAX's blockwise TPU kernel, forward and fused backward, on every chip of a mesh.

The kernel itself is `jax.experimental.pallas.ops.tpu.splash_attention`; here are its block sizes (its own
choice would ask for a TPU, which ahead-of-time compilation has not), padding, masks, and the mesh.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from tempo_jax import sharding

LANES = 128  # lengths are padded to multiples of this
MAX_BLOCK = 1024  # queries or keys in VMEM at once, at most
CHECKPOINT_NAME = "attention"  # what rematerialisation knows the kernel's results by (layers.REMAT)
SUPPORTED_HEAD_DIMS = (64, 128, 256)  # head sizes the kernel takes


def is_supported(q_BTNH, k_BSKH) -> bool:
    """Whether the kernel takes these: half precision (float32 stays exact with XLA), more than one query."""
    half = q_BTNH.dtype == jnp.bfloat16 and k_BSKH.dtype == jnp.bfloat16
    return half and q_BTNH.shape[-1] in SUPPORTED_HEAD_DIMS and q_BTNH.shape[1] >= LANES


def splash_attention(
    q_BTNH,
    k_BSKH,
    v_BSKH,
    *,
    scale: float | None = None,
    causal: bool = False,
    kv_valid_BS=None,
    segment_ids_BT=None,
    interpret: bool = False,
) -> jax.Array:
    """What `attention.attention` computes, with the same arguments; [B, T, N, H] in q's dtype.

    interpret: runs the kernel's own code on a CPU, for tests.
    """
    queries, keys = q_BTNH.shape[1], k_BSKH.shape[1]
    scaled = q_BTNH if scale == 1 else q_BTNH * (q_BTNH.shape[-1] ** -0.5 if scale is None else scale)
    q = _padded(scaled).transpose(0, 2, 1, 3)
    k, v = (_padded(x).transpose(0, 2, 1, 3) for x in (k_BSKH, v_BSKH))
    segments = _segment_ids(queries, keys, causal, kv_valid_BS, segment_ids_BT, q.shape[0])
    run = functools.partial(_vmapped_kernel, offset=keys - queries if causal else None, interpret=interpret)
    out = _on_mesh(run, q, k, v, segments)
    return out.transpose(0, 2, 1, 3)[:, :queries].astype(q_BTNH.dtype)


def _padded(x_BLNH: jax.Array) -> jax.Array:
    missing = -x_BLNH.shape[1] % LANES
    return jnp.pad(x_BLNH, ((0, 0), (0, missing), (0, 0), (0, 0))) if missing else x_BLNH


def _segment_ids(queries, keys, causal, kv_valid_BS, segment_ids_BT, batch) -> kernel.SegmentIds | None:
    """Numbers that must agree where a query sees a key; None where the causal mask says it all.

    A query always sees a key, else softmax has nothing to divide by: padding queries have the number of
    real ones, so that only keys are told apart.
    """
    unpadded = keys % LANES == 0
    if segment_ids_BT is None and kv_valid_BS is None and (unpadded or (causal and queries == keys)):
        return None
    numbers = jnp.ones((batch, keys), jnp.int32) if segment_ids_BT is None else segment_ids_BT.astype(jnp.int32)
    if segment_ids_BT is None:
        q = jnp.ones((batch, queries), jnp.int32)
    else:
        q = numbers[:, :queries]
    if kv_valid_BS is not None:
        numbers = jnp.where(kv_valid_BS, numbers, -1)
    tail = -queries % LANES
    q = jnp.pad(q, ((0, 0), (0, tail)), mode="edge")
    return kernel.SegmentIds(q, jnp.pad(numbers, ((0, 0), (0, -keys % LANES)), constant_values=-1))


def _vmapped_kernel(q_BNTH, k_BKSH, v_BKSH, segments, *, offset: int | None, interpret: bool):
    """The kernel over the rows and heads of one chip."""
    heads, queries, keys = q_BNTH.shape[1], q_BNTH.shape[2], k_BKSH.shape[2]
    if offset is None:
        mask = masks.FullMask((queries, keys))
    else:
        mask = masks.CausalMask((queries, keys), offset=offset)
    made = kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=block_sizes(queries, keys, causal=offset is not None),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
        residual_checkpoint_name=CHECKPOINT_NAME,
    )
    return jax.vmap(made)(q_BNTH, k_BKSH, v_BKSH, segments)


def block_sizes(queries: int, keys: int, *, causal: bool) -> kernel.BlockSizes:
    """Blocks as large as VMEM takes and as divide the lengths; the backward pass is one fused kernel.

    A causal row of one block is two going forward, of whose four quarters one is skipped. Backward, every
    block of keys writes queries' gradients of its own, and adding them up takes about what that would save.
    """
    q, kv = _divisor(queries), _divisor(keys)
    cut = 2 if causal and queries == keys == MAX_BLOCK else 1
    return kernel.BlockSizes(
        block_q=q // cut,
        block_kv=kv // cut,
        block_kv_compute=kv // cut,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_kv_dkv_compute=kv,
        use_fused_bwd_kernel=True,
    )


def _divisor(length: int) -> int:
    """The largest multiple of LANES up to BLOCK that divides a multiple of LANES."""
    rows = length // LANES
    return LANES * max(n for n in range(1, MAX_BLOCK // LANES + 1) if rows % n == 0)


def _on_mesh(run, q, k, v, segments):
    """Rows over data x fsdp, heads over tensor, where the numbers divide: a kernel sees one chip's part."""
    mesh = jax.sharding.get_abstract_mesh()
    rows, heads = sharding.partition_spec(
        ("segments", "heads"), k.shape[:2], mesh
    )  # what divides k divides q
    where = jax.P(rows, heads)
    return sharding.shard_map_local(run, (where, where, where, jax.P(rows)), where)(q, k, v, segments)
