"""Rotary position embeddings: 1-D, interleaved M-RoPE of Qwen3-VL, and the vision tower's 2-D form."""

import jax
import jax.numpy as jnp
import numpy as np


def inverse_frequencies(size: int, theta: float) -> np.ndarray:
    """1 / theta^(2i/size) for i < size/2, float32 [size/2].

    Each step is rounded to float32, as in PyTorch: one unit in the last place of a frequency is a rotation by
    5e-4 rad at position 8,000. The power is computed in float64 and rounded (NumPy's float32 power differs
    from PyTorch's in a fifth of the entries, this one in one of 64).
    """
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    powers = np.power(np.float64(theta), exponents.astype(np.float64))
    return np.float32(1) / powers.astype(np.float32)


def section_axes(sections: tuple[int, int, int]) -> np.ndarray:
    """The position axis (0 time, 1 height, 2 width) of each rotary pair; int [sum(sections)].

    Interleaved M-RoPE (Qwen3-VL): pairs are t, h, w, t, h, w, ... until the h and w sections are used up; the
    rest is time.
    """
    axes = np.zeros(sum(sections), np.int32)
    for axis in (1, 2):
        axes[axis : 3 * sections[axis] : 3] = axis
    return axes


def angles(positions: jax.Array, frequencies, sections: tuple[int, int, int] | None = None) -> jax.Array:
    """Rotation angles, float32 [B, L, head_dim/2].

    positions: int [B, L], or [3, B, L] (t, h, w) with `sections` for M-RoPE.
    """
    if sections is not None:
        positions = jnp.moveaxis(positions, 0, -1)[..., section_axes(sections)]
    else:
        positions = positions[..., None]
    return positions.astype(jnp.float32) * frequencies


def rotate(x_BLNH: jax.Array, angles_BLR: jax.Array) -> jax.Array:
    """Rotates pairs (i, i + H/2) of each head by the angles (rotate-half), in float32; returns x's dtype."""
    both = jnp.concatenate([angles_BLR, angles_BLR], axis=-1)[:, :, None]
    x = x_BLNH.astype(jnp.float32)
    x1, x2 = jnp.split(x, 2, axis=-1)
    rotated_half = jnp.concatenate([-x2, x1], axis=-1)
    return (x * jnp.cos(both) + rotated_half * jnp.sin(both)).astype(x_BLNH.dtype)
