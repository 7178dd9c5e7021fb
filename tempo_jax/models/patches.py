"""Frames to embedded patches, without laying patches out one by one."""

import jax
import jax.numpy as jnp


def embed(frames_BTHWC, kernel, bias, patch: int) -> jax.Array:
    """Every patch of B stacks of T frames times `kernel`, plus bias: [B, H/patch, W/patch, D].

    kernel: [C*T*patch*patch, D], a patch's numbers channel by channel, frame by frame, row by row, as
    published. Rows of 16 pixels, which a patch on its own would have, are moved by a TPU six times as slowly
    as the columns of all patches side by side that are multiplied here (docs/plans.md).
    """
    batch, count, height, width, channels = frames_BTHWC.shape
    x = frames_BTHWC.astype(kernel.dtype).reshape(batch, count, -1, patch, width, channels)
    x = x.transpose(0, 2, 4, 5, 1, 3).reshape(batch, height // patch, width // patch, patch, -1)
    columns = kernel.reshape(channels, count, patch, patch, -1).transpose(3, 0, 1, 2, 4)
    return jnp.einsum("byxpk,pkd->byxd", x, columns.reshape(patch, -1, kernel.shape[-1])) + bias
