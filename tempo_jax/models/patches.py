"""Frames to embedded patches, without laying patches out one by one."""

import jax
import jax.numpy as jnp


def embed(frames_BTHWC, kernel, bias, patch: int) -> jax.Array:
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
