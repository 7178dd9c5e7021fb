"""Rows of a pool of visual tokens, by index: how videos get into the prompts of an LLM."""

import jax
import jax.numpy as jnp

from tempo_jax.sharding import constrain


def take(pool_MD, index_BL, shards: int = 1) -> jax.Array:
    """pool_MD[index_BL], [B, L, D]; any row where the index is negative.

    shards: parts of equal size of pool and batch, in order, that have nothing to do with each other: no row
    of one part points into the pool of another. On a mesh each chip then gathers from its own part; told of
    one part only, XLA has to bring the whole pool to every chip, and the gradient back.
    """
    if pool_MD.shape[0] % shards or index_BL.shape[0] % shards:
        shards = 1  # of a batch that is not a training batch's
    own = pool_MD.shape[0] // shards
    pools = constrain(pool_MD.reshape(shards, own, -1), "segments")
    indices = index_BL.reshape(shards, -1, index_BL.shape[1]) - own * jnp.arange(shards)[:, None, None]
    rows = jax.vmap(lambda pool, index: pool[jnp.maximum(index, 0)])(pools, indices)
    return constrain(rows.reshape(*index_BL.shape, -1), "segments")
