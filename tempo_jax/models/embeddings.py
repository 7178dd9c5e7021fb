"""Embeddings that both systems share: patches of pixels, and visual tokens gathered from a buffer."""

import jax
import jax.numpy as jnp

from tempo_jax.sharding import constrain


@jax.named_scope("patch_embed")
def patch_embed(frames_BTHWC, kernel, bias, patch: int) -> jax.Array:
    """Every patch of B stacks of T frames times `kernel`, plus bias: [B, H/patch, W/patch, D].

    kernel: [C*T*patch*patch, D], a patch's values by channel, frame and row
    (docs/reference/tempo.md#frame-sizes). A patch on its own would have rows of 16 pixels, which a TPU moves
    slowly: a matmul per pixel column over all patches takes a sixth of the time
      (docs/results/optimization-log.md).
    """
    batch, count, height, width, channels = frames_BTHWC.shape
    x = frames_BTHWC.astype(kernel.dtype).reshape(batch, count, -1, patch, width, channels)
    x = x.transpose(0, 2, 4, 5, 1, 3).reshape(batch, height // patch, width // patch, patch, -1)
    columns = kernel.reshape(channels, count, patch, patch, -1).transpose(3, 0, 1, 2, 4)
    return jnp.einsum("byxpk,pkd->byxd", x, columns.reshape(patch, -1, kernel.shape[-1])) + bias


def gather_rows(buffer_MD, index_BL, num_shards: int = 1) -> jax.Array:
    """buffer_MD[index_BL], [B, L, D]; an arbitrary row where the index is negative.

    num_shards: number of equal, consecutive parts of buffer and batch between which no index points: examples
      of a part refer to buffer rows of the same part only. On a mesh, each chip then gathers from its own
      part; otherwise XLA all-gathers the whole buffer to every chip, and all-reduces its gradient.
    """
    if buffer_MD.shape[0] % num_shards or index_BL.shape[0] % num_shards:
        num_shards = 1  # a batch that is not a training batch
    shard_size = buffer_MD.shape[0] // num_shards
    buffers = constrain(buffer_MD.reshape(num_shards, shard_size, -1), "batch")
    indices = index_BL.reshape(num_shards, -1, index_BL.shape[1])
    indices = indices - shard_size * jnp.arange(num_shards)[:, None, None]
    rows = jax.vmap(lambda buffer, index: buffer[jnp.maximum(index, 0)])(buffers, indices)
    return constrain(rows.reshape(*index_BL.shape, -1), "batch")
