"""PyTorch's antialiased bicubic on float32, bit by bit.

The last step of the reference's resizing (docs/reference/tempo.md#frame-sizes) runs `torchvision` on float32
copies of uint8 pixels and rounds once. When upsampling by simple ratios, many exact sums are x.5, where the
result depends on every intermediate rounding. So weights and sums follow PyTorch's own steps (2.13, x86):
weights in float32 with fused multiply-adds, then one fused multiply-add per tap, horizontal pass first. The
fused operations are built from error-free transformations and thus the same on every backend.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.lru_cache(maxsize=64)
def weights(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray]:
    """For each output: first input, int [size_out], and float32 weights [size_out, taps]."""
    f32 = np.float32
    scale = f32(size_in) / f32(size_out)
    stretch = max(scale, f32(1))
    support = f32(2) * stretch
    centers = scale * (np.arange(size_out, dtype=f32) + f32(0.5))
    first = np.maximum((centers - support + f32(0.5)).astype(np.int32), 0)
    last = np.minimum((centers + support + f32(0.5)).astype(np.int32), size_in)
    taps = np.arange((last - first).max())
    offsets = ((taps + first[:, None]).astype(f32) - centers[:, None] + f32(0.5)) * (f32(1) / stretch)
    table = np.where(taps < (last - first)[:, None], _cubic(np.abs(offsets)), f32(0))
    total = np.zeros(size_out, f32)
    for tap in range(table.shape[1]):
        total = total + table[:, tap]
    return first, table / total[:, None]


def resize_float(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """float32 [..., H, W] of whole values 0..255 to [..., h, w], rounded to whole values.

    Each pass has a loop of its own: XLA would fuse the first into the second and recompute it for every tap
    (17 times slower on CPU, whose compiler ignores an optimization barrier here).
    """
    planes = x.reshape(-1, *x.shape[-2:])
    planes = jax.lax.map(lambda plane: _pass(plane, -1, size[1]), planes)
    planes = jax.lax.map(lambda plane: _pass(plane, -2, size[0]), planes)
    return jnp.clip(jnp.round(planes), 0, 255).reshape(*x.shape[:-2], *size)


def _pass(x: jax.Array, axis: int, size_out: int) -> jax.Array:
    if x.shape[axis] == size_out:
        return x
    first, table = weights(x.shape[axis], size_out)
    total = None
    for tap in range(table.shape[1]):
        index = np.minimum(first + tap, x.shape[axis] - 1)
        taken = jnp.take(x, index, axis=axis)
        weight = table[:, tap] if axis == -1 else table[:, tap, None]
        total = taken * weight if total is None else _fma(taken, jnp.asarray(weight), total)
    return total


def _cubic(x: np.ndarray) -> np.ndarray:
    """The cubic kernel with a = -0.5 for x >= 0, in float32 with fused multiply-adds."""
    near = np_fma(np_fma(1.5, x, -2.5) * x, x, 1.0)
    far = np_fma(np_fma(x - np.float32(5), x, 8.0), x, -4.0) * np.float32(-0.5)
    return np.where(x < 1, near, np.where(x < 2, far, np.float32(0)))


def np_fma(a, b, c) -> np.ndarray:
    """a * b + c rounded once to float32: products of float32 are exact in float64."""
    return (np.float64(a) * np.float64(b) + np.float64(c)).astype(np.float32)


def _fma(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """a * b + c with one rounding, from float32 operations alone.

    Dekker's product a * b = high + low and Knuth's sum high + c = total + rest are exact. A compiler
    that contracts some of these steps to real fused operations does not change the result.
    """
    high = a * b
    low = _product_error(a, b, high)
    total = high + c
    shadow = total - high
    rest = (high - (total - shadow)) + (c - shadow)
    return total + (rest + low)


def _product_error(a: jax.Array, b: jax.Array, product: jax.Array) -> jax.Array:
    a1, a2 = _halves(a)
    b1, b2 = _halves(b)
    return ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits float32 into two values of 12 significant bits, by masking the low bits."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & np.uint32(0xFFFFF000)
    high = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return high, x - high
