"""One attention function; it chooses between splash attention (TPU), cuDNN (NVIDIA) and XLA (all else).

Vision towers have a kernel of their own on a TPU: `vision_attention`.
"""

import jax
import jax.numpy as jnp

from tempo_jax.sharding import DEFAULT_RULES, ShardingRules

# Queries handled at once on the plain XLA path: bounds the score matrix at QUERY_BLOCK x keys per head.
QUERY_BLOCK = 1024
CPU_BLOCK = 128  # up to so many positions a CPU computes the masked half faster than it skips it


@jax.named_scope("attention")
def attention(
    q_BTNH,
    k_BSKH,
    v_BSKH,
    *,
    scale: float | None = None,
    causal: bool = False,
    kv_valid_BS=None,
    segment_ids_BT=None,
    rules: ShardingRules = DEFAULT_RULES,
) -> jax.Array:
    """softmax(scale q k^T) v with grouped key/value heads.

    Args:
      q_BTNH: Queries.
      k_BSKH: Keys.
      v_BSKH: Values.
      scale: H^-0.5 by default.
      causal: Query i attends to keys up to S - T + i (the queries are the last T of the S keys).
      kv_valid_BS: bool, False for keys that no query attends to (padding, unwritten cache slots).
      segment_ids_BT: int, for packed examples: a query attends to keys of its own segment id only.
      rules: How examples and heads are split over the mesh, for kernels.

    Returns:
      [B, T, N, H] in q's dtype.
    """
    backend = platform()
    if backend == "tpu":
        from tempo_jax.models.kernels import splash  # imports Pallas, which other platforms do not need

        if splash.is_supported(q_BTNH, k_BSKH):
            masks = {"causal": causal, "kv_valid_BS": kv_valid_BS, "segment_ids_BT": segment_ids_BT}
            return splash.splash_attention(q_BTNH, k_BSKH, v_BSKH, scale=scale, rules=rules, **masks)
    head_dim = q_BTNH.shape[-1]
    if scale is not None and scale != head_dim**-0.5:
        q_BTNH = q_BTNH * (scale * head_dim**0.5)
    square = q_BTNH.shape[1] == k_BSKH.shape[1]
    if backend == "cpu" and causal and kv_valid_BS is None and square and k_BSKH.shape[1] > CPU_BLOCK:
        return _causal_cpu(q_BTNH, k_BSKH, v_BSKH, segment_ids_BT)
    if segment_ids_BT is not None:
        return _blockwise(q_BTNH, k_BSKH, v_BSKH, causal, kv_valid_BS, segment_ids_BT)
    cudnn_takes_it = q_BTNH.dtype in (jnp.bfloat16, jnp.float16) and head_dim % 8 == 0
    if backend == "gpu" and cudnn_takes_it and kv_valid_BS is None and (square or not causal):
        return jax.nn.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, is_causal=causal, implementation="cudnn")
    if backend == "cpu" and jax.sharding.get_abstract_mesh().empty:
        return _per_example_cpu(q_BTNH, k_BSKH, v_BSKH, causal, kv_valid_BS)
    return _blockwise(q_BTNH, k_BSKH, v_BSKH, causal, kv_valid_BS)


def platform() -> str:
    """The platform a program is traced for: of the mesh's devices, if there is a mesh, else the default one.

    The planner traces for TPUs that the host does not have, so this is known at trace time only, and modules
    cannot choose their kernels when they are built.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


@jax.named_scope("attention")
def attend_to_cache(
    q_B1NH, k_BKSH, v_BKSH, valid_BS, scale: float, rules: ShardingRules = DEFAULT_RULES
) -> jax.Array:
    """Attention of one query per sequence to head-major caches, [B, 1, N, H] in q's dtype.

    On a CPU, products that read the caches as they lie: 4 times faster than `attention` for one sequence of
    1,600 tokens, and 13 times for eight, whose keys XLA turns around at every step.
    """
    if platform() != "cpu":
        k_BSKH, v_BSKH = k_BKSH.swapaxes(1, 2), v_BKSH.swapaxes(1, 2)
        return attention(q_B1NH, k_BSKH, v_BSKH, scale=scale, kv_valid_BS=valid_BS, rules=rules)
    batch, kv_heads, _, head_dim = k_BKSH.shape
    q_BKGH = (q_B1NH * scale).reshape(batch, kv_heads, -1, head_dim)
    scores = jnp.einsum("bksh,bkgh->bkgs", k_BKSH, q_BKGH, preferred_element_type=jnp.float32)
    scores = jnp.where(valid_BS[:, None, None], scores, -1e30)
    probs = jax.nn.softmax(scores, axis=-1).astype(v_BKSH.dtype)
    out = jnp.einsum("bkgs,bksh->bkgh", probs, v_BKSH, preferred_element_type=jnp.float32)
    return out.astype(q_B1NH.dtype).reshape(q_B1NH.shape)


def _causal_cpu(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT):
    """Causal self-attention on a CPU: blocks of queries, each with the keys up to its end only.

    It computes half of the scores, by plain matmuls in place of XLA's fused attention, which a CPU runs
    element by element: 2 to 3 times faster forward and backward at 580 positions.
    """
    (batch, length, heads, head_dim), kv_heads = q_BTNH.shape, k_BTKH.shape[2]
    q_BKGTH = (q_BTNH / head_dim**0.5).reshape(batch, length, kv_heads, -1, head_dim).transpose(0, 2, 3, 1, 4)
    k_BKHT, v_BKTH = k_BTKH.transpose(0, 2, 3, 1), v_BTKH.transpose(0, 2, 1, 3)
    block = max(CPU_BLOCK, -(-length // 16))
    out = []
    for start in range(0, length, block):
        end = min(start + block, length)
        mask = (jnp.arange(end) <= jnp.arange(start, end)[:, None])[None]
        if segment_ids_BT is not None:
            mask = mask & (segment_ids_BT[:, start:end, None] == segment_ids_BT[:, None, :end])
        q = q_BKGTH[:, :, :, start:end].reshape(batch, kv_heads, -1, head_dim)
        scores = jnp.matmul(q, k_BKHT[..., :end], preferred_element_type=jnp.float32)
        bias = jnp.tile(jnp.where(mask, 0.0, -1e30), (1, heads // kv_heads, 1))[:, None]
        scores = scores + bias
        probs = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
        total = probs.sum(-1, keepdims=True)
        values = jnp.matmul(
            probs.astype(v_BTKH.dtype), v_BKTH[:, :, :end], preferred_element_type=jnp.float32
        )
        out.append((values / total).reshape(batch, kv_heads, heads // kv_heads, end - start, head_dim))
    out_BKGTH = jnp.concatenate(out, axis=3)
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(q_BTNH.shape).astype(q_BTNH.dtype)


def _per_example_cpu(q, k, v, causal: bool, kv_valid):
    """One example after the other: the scores of one stay in a CPU's cache (2 to 6 times faster)."""
    valid = jnp.ones(k.shape[:2], bool) if kv_valid is None else kv_valid

    def one_example(args):
        q, k, v, valid = (x[None] for x in args)
        return _blockwise(q, k, v, causal, None if kv_valid is None else valid)[0]

    return jax.lax.map(one_example, (q, k, v, valid))


def _plain_cpu(q_BTNH, k_BSKH, v_BSKH, mask):
    """Attention by plain matmuls, whose softmax is divided by its sum at the end: as fast as PyTorch's.

    mask: bool [B or 1, 1, T or 1, S], or None.
    """
    (batch, queries, heads, head_dim), kv_heads = q_BTNH.shape, k_BSKH.shape[2]
    q = (q_BTNH / head_dim**0.5).reshape(batch, queries, kv_heads, -1, head_dim).transpose(0, 2, 3, 1, 4)
    q_BKMH = q.reshape(batch, kv_heads, -1, head_dim)  # M: the queries of one head after those of another
    k_BKHS, v_BKSH = k_BSKH.transpose(0, 2, 3, 1), v_BSKH.transpose(0, 2, 1, 3)
    scores = jnp.matmul(q_BKMH, k_BKHS, preferred_element_type=jnp.float32)
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], queries, mask.shape[3]))
        scores = scores + jnp.tile(jnp.where(mask, 0.0, -1e30), (1, 1, heads // kv_heads, 1))
    probs = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = probs.sum(-1, keepdims=True)
    out = jnp.matmul(probs.astype(v_BKSH.dtype), v_BKSH, preferred_element_type=jnp.float32) / total
    out_BKGTH = out.reshape(batch, kv_heads, -1, queries, head_dim)
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(q_BTNH.shape).astype(q_BTNH.dtype)


def _blockwise(q, k, v, causal: bool, kv_valid, segment_ids=None):
    """The XLA path, over blocks of queries so that memory stays linear in the sequence length."""
    batch, queries, keys = q.shape[0], q.shape[1], k.shape[1]
    if queries <= QUERY_BLOCK:
        last = jnp.arange(queries) + keys - queries if causal else None
        return _masked(q, k, v, last, kv_valid, segment_ids, segment_ids)
    blocks = -(-queries // QUERY_BLOCK)
    padded = jnp.pad(q, ((0, 0), (0, blocks * QUERY_BLOCK - queries), (0, 0), (0, 0)))
    q_blocks = jnp.moveaxis(padded.reshape(batch, blocks, QUERY_BLOCK, *q.shape[2:]), 1, 0)
    id_blocks = None
    if segment_ids is not None:
        id_blocks = jnp.pad(segment_ids, ((0, 0), (0, blocks * QUERY_BLOCK - queries)))
        id_blocks = jnp.moveaxis(id_blocks.reshape(batch, blocks, QUERY_BLOCK), 1, 0)

    def one_block(args):
        index, q_block, id_block = args
        last = index * QUERY_BLOCK + jnp.arange(QUERY_BLOCK) + keys - queries if causal else None
        return _masked(q_block, k, v, last, kv_valid, id_block, segment_ids)

    out = jax.lax.map(one_block, (jnp.arange(blocks), q_blocks, id_blocks))
    return jnp.moveaxis(out, 0, 1).reshape(batch, blocks * QUERY_BLOCK, *q.shape[2:])[:, :queries]


def _masked(q, k, v, last_key_T, kv_valid_BS, segment_ids_BT=None, segment_ids_BS=None):
    mask = None
    if last_key_T is not None:
        mask = (jnp.arange(k.shape[1]) <= last_key_T[:, None])[None, None]
    if kv_valid_BS is not None:
        valid = kv_valid_BS[:, None, None, :]
        mask = valid if mask is None else mask & valid
    if segment_ids_BT is not None:
        same = (segment_ids_BT[:, :, None] == segment_ids_BS[:, None, :])[:, None]
        mask = same if mask is None else mask & same
    if platform() == "cpu" and q.shape[1] > 1:
        return _plain_cpu(q, k, v, mask)
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")
