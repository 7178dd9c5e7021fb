"""Embeddings that both systems share: patches of pixels, and rows of a pool of visual tokens."""

import jax
import jax.numpy as jnp

from tempo_jax.sharding import constrain


def patch_embed(frames_BTHWC, kernel, bias, patch: int) -> jax.Array:
    """Every patch of B stacks of T frames times `kernel`, plus bias: [B, H/patch, W/patch, D].

    kernel: [C*T*patch*patch, D], a patch's numbers channel by channel, frame by frame, row by row, as
    published (facts/tempo.md §2.3). A patch on its own would have rows of 16 pixels, which a TPU moves
    slowly: the columns of all patches side by side take a sixth of the time (docs/plans.md).
    """
    batch, count, height, width, channels = frames_BTHWC.shape
    x = frames_BTHWC.astype(kernel.dtype).reshape(batch, count, -1, patch, width, channels)
    x = x.transpose(0, 2, 4, 5, 1, 3).reshape(batch, height // patch, width // patch, patch, -1)
    columns = kernel.reshape(channels, count, patch, patch, -1).transpose(3, 0, 1, 2, 4)
    return jnp.einsum("byxpk,pkd->byxd", x, columns.reshape(patch, -1, kernel.shape[-1])) + bias


def gather_rows(pool_MD, index_BL, num_shards: int = 1) -> jax.Array:
    """pool_MD[index_BL], [B, L, D]; any row where the index is negative.

    shards: parts of equal size of pool and batch, in order, that have nothing to do with each other: no row
    of one part points into the pool of another. On a mesh each chip then gathers from its own part; told of
    one part only, XLA has to bring the whole pool to every chip, and the gradient back.
    """
    if pool_MD.shape[0] % num_shards or index_BL.shape[0] % num_shards:
        num_shards = 1  # of a batch that is not a training batch's
    own = pool_MD.shape[0] // num_shards
    pools = constrain(pool_MD.reshape(num_shards, own, -1), "segments")
    indices = (
        index_BL.reshape(num_shards, -1, index_BL.shape[1]) - own * jnp.arange(num_shards)[:, None, None]
    )
    rows = jax.vmap(lambda pool, index: pool[jnp.maximum(index, 0)])(pools, indices)
    return constrain(rows.reshape(*index_BL.shape, -1), "segments")
