"""One attention function; it chooses between splash attention (TPU), cuDNN (NVIDIA) and XLA (all else).

Vision towers have their own on a TPU: `vision_attention`.
"""

import jax
import jax.numpy as jnp

# Queries handled at once on the plain XLA path: bounds the score matrix at BLOCK x keys per head.
QUERY_BLOCK = 1024
CPU_BLOCK = 128  # of so few positions a CPU computes the masked half faster than it cuts it off


def attention(
    q_BTNH, k_BSKH, v_BSKH, *, scale=None, causal: bool = False, kv_valid_BS=None, segment_ids_BT=None
) -> jax.Array:
    """softmax(scale q k^T) v with grouped key/value heads; [B, T, N, H] in q's dtype.

    scale: H^-0.5 by default.
    causal: query i sees keys up to S - T + i (the queries are the last T of the S keys).
    kv_valid_BS: bool, keys that may be seen at all (padding and unwritten cache slots are not).
    segment_ids_BT: int, for rows that hold several texts: a query sees keys of its own number only.
    """
    backend = platform()
    cpu = backend == "cpu"
    if backend == "tpu":
        from tempo_jax.models.kernels import splash  # Pallas: nobody else need import it

        if splash.is_supported(q_BTNH, k_BSKH):
            masked = {"causal": causal, "kv_valid_BS": kv_valid_BS, "segment_ids_BT": segment_ids_BT}
            return splash.splash_attention(q_BTNH, k_BSKH, v_BSKH, scale=scale, **masked)
    if scale is not None:
        q_BTNH = q_BTNH * (scale * q_BTNH.shape[-1] ** 0.5)
    if cpu and causal and kv_valid_BS is None and q_BTNH.shape[1] == k_BSKH.shape[1] > CPU_BLOCK:
        return _causal_cpu(q_BTNH, k_BSKH, v_BSKH, segment_ids_BT)
    if segment_ids_BT is not None:
        return _blockwise(q_BTNH, k_BSKH, v_BSKH, causal, kv_valid_BS, segment_ids_BT)
    square = q_BTNH.shape[1] == k_BSKH.shape[1]
    fits = q_BTNH.dtype in (jnp.bfloat16, jnp.float16) and q_BTNH.shape[-1] % 8 == 0  # cuDNN's limits
    if backend == "gpu" and fits and kv_valid_BS is None and (square or not causal):
        return jax.nn.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, is_causal=causal, implementation="cudnn")
    if cpu and jax.sharding.get_abstract_mesh().empty:
        return _per_example_cpu(q_BTNH, k_BSKH, v_BSKH, causal, kv_valid_BS)
    return _blockwise(q_BTNH, k_BSKH, v_BSKH, causal, kv_valid_BS)


def platform() -> str:
    """What a program is traced for: the mesh's devices, which the planner does not have, or the default's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def _causal_cpu(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT):
    """Causal self-attention on a CPU: blocks of queries, each with the keys up to its end and no others.

    Half the scores, and plain matrix products in place of XLA's fused attention, which a CPU runs on one
    element after the other: 2 to 3 times faster forward and backward at 580 positions.
    """
    (batch, length, heads, size), pairs = q_BTNH.shape, k_BTKH.shape[2]
    q_BKGTH = (q_BTNH / size**0.5).reshape(batch, length, pairs, -1, size).transpose(0, 2, 3, 1, 4)
    k_BKHT, v_BKTH = k_BTKH.transpose(0, 2, 3, 1), v_BTKH.transpose(0, 2, 1, 3)
    block = max(CPU_BLOCK, -(-length // 16))
    out = []
    for start in range(0, length, block):
        end = min(start + block, length)
        seen = (jnp.arange(end) <= jnp.arange(start, end)[:, None])[None]
        if segment_ids_BT is not None:
            seen = seen & (segment_ids_BT[:, start:end, None] == segment_ids_BT[:, None, :end])
        q = q_BKGTH[:, :, :, start:end].reshape(batch, pairs, -1, size)
        scores = jnp.matmul(q, k_BKHT[..., :end], preferred_element_type=jnp.float32)
        hidden = jnp.tile(jnp.where(seen, 0.0, -1e30), (1, heads // pairs, 1))[:, None]
        scores = scores + hidden
        shares = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
        total = shares.sum(-1, keepdims=True)
        values = jnp.matmul(
            shares.astype(v_BTKH.dtype), v_BKTH[:, :, :end], preferred_element_type=jnp.float32
        )
        out.append((values / total).reshape(batch, pairs, heads // pairs, end - start, size))
    out_BKGTH = jnp.concatenate(out, axis=3)
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(q_BTNH.shape).astype(q_BTNH.dtype)


def _per_example_cpu(q, k, v, causal: bool, kv_valid):
    """A row of the batch after the other: a row's scores stay in a CPU's cache (2 to 6 times faster)."""
    valid = jnp.ones(k.shape[:2], bool) if kv_valid is None else kv_valid

    def row(args):
        q, k, v, valid = (x[None] for x in args)
        return _blockwise(q, k, v, causal, None if kv_valid is None else valid)[0]

    return jax.lax.map(row, (q, k, v, valid))


def _blockwise(q, k, v, causal: bool, kv_valid, document=None):
    """The XLA path, over blocks of queries so that memory stays linear in the sequence."""
    batch, queries, keys = q.shape[0], q.shape[1], k.shape[1]
    if queries <= QUERY_BLOCK:
        last = jnp.arange(queries) + keys - queries if causal else None
        return _masked(q, k, v, last, kv_valid, document, document)
    blocks = -(-queries // QUERY_BLOCK)
    padded = jnp.pad(q, ((0, 0), (0, blocks * QUERY_BLOCK - queries), (0, 0), (0, 0)))
    q_blocks = jnp.moveaxis(padded.reshape(batch, blocks, QUERY_BLOCK, *q.shape[2:]), 1, 0)
    numbers = None
    if document is not None:
        numbers = jnp.pad(document, ((0, 0), (0, blocks * QUERY_BLOCK - queries)))
        numbers = jnp.moveaxis(numbers.reshape(batch, blocks, QUERY_BLOCK), 1, 0)

    def block(args):
        index, q_block, number = args
        last = index * QUERY_BLOCK + jnp.arange(QUERY_BLOCK) + keys - queries if causal else None
        return _masked(q_block, k, v, last, kv_valid, number, document)

    out = jax.lax.map(block, (jnp.arange(blocks), q_blocks, numbers))
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
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")
