"""Resizes uint8 frames to the model's size, and normalizes pixels, on the device.

Bicubic resampling as separable matmuls with weights computed on the host. The reference implementations use
three resamplers, which differ only in their arithmetic (docs/reference/tempo.md#frame-sizes):

* Pillow (steps A and B of a video): 22-bit integer weights, rounded to 8 bits after the horizontal
  pass and again after the vertical one, halves up. Horizontal first, as in the Pillow versions of
  the reference; Pillow 13 swaps the passes where height shrinks more than width.
* torchvision v1 (step C): float32 throughout, rounded once at the end (`resize_float`).
* torchvision v2 (single images): as Pillow, with 16-bit weights.

Integer weights are split into parts so small that float32 sums of their products with uint8 are exact
integers, so that integer resamplers are reproduced bit by bit on every backend.

Step C runs `torchvision` on float32 copies of uint8 pixels. When upsampling by simple ratios, many exact sums
are x.5, where the result depends on every intermediate rounding. So weights and sums follow PyTorch's own
steps (2.13, x86): weights in float32 with fused multiply-adds, then one fused multiply-add per tap,
horizontal pass first. The fused operations are built from error-free transformations and thus the same on
every backend.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Size = tuple[int, int]  # (height, width)

PILLOW_BITS = 22  # fixed-point precision of Pillow's weights for 8-bit pixels
PART_BITS = 11  # a part's products with uint8, summed over a window, stay below 2**24
BLOCK = 64  # outputs computed together: they read only their neighborhood of the input


@dataclasses.dataclass(frozen=True)
class _Band:
    """Weights of outputs start..start+n from inputs lo..hi: one float32 [hi-lo, n] per part."""

    lo: int
    hi: int
    parts: tuple[np.ndarray, ...]


def _cubic(x: np.ndarray) -> np.ndarray:
    """The cubic kernel with a = -0.5, which Pillow and torch's antialiased bicubic share."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def windows(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each output: first input, one past the last, and float64 weights [size_out, taps] that sum to 1.

    When shrinking, the kernel is stretched by the scale, which prevents aliasing.
    """
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    centers = (np.arange(size_out) + 0.5) * scale
    first = np.maximum(np.trunc(centers - support + 0.5), 0).astype(int)
    last = np.minimum(np.trunc(centers + support + 0.5), size_in).astype(int)
    offsets = np.arange((last - first).max())
    inputs = first[:, None] + offsets
    weights = _cubic((offsets + (first - centers)[:, None] + 0.5) / stretch)
    weights = np.where(inputs < last[:, None], weights, 0.0)
    return first, last, weights / weights.sum(1, keepdims=True)


def torch_bits(largest: float) -> int:
    """Precision of torch's 16-bit weights: the maximum bits with which the largest is below 2**15."""
    bits = 0
    while bits < 22 and int(0.5 + largest * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    return bits


def fixed_point(weights: np.ndarray, bits: int) -> np.ndarray:
    """Weights times 2**bits, rounded half away from zero, as int64."""
    return np.trunc(weights * (1 << bits) + np.copysign(0.5, weights)).astype(np.int64)


def _split(weights: np.ndarray, bits: int) -> tuple[np.ndarray, ...]:
    """Splits integer weights into float32 parts, the highest first, of at most PART_BITS each."""
    if bits <= 15:
        return (weights.astype(np.float32),)
    high = (weights + (1 << (PART_BITS - 1))) >> PART_BITS
    return high.astype(np.float32), (weights - (high << PART_BITS)).astype(np.float32)


@functools.lru_cache(maxsize=64)
def _bands(size_in: int, size_out: int, mode: str) -> tuple[tuple[_Band, ...], int]:
    """The resampling matrix of one axis, in bands of BLOCK outputs, and its fixed-point bits."""
    first, last, weights = windows(size_in, size_out)
    bits = {"pillow": PILLOW_BITS, "torch_uint8": torch_bits(weights.max())}[mode]
    bands = []
    for start in range(0, size_out, BLOCK):
        rows = np.arange(start, min(start + BLOCK, size_out))
        lo, hi = first[rows[0]], last[rows[-1]]
        dense = np.zeros((len(rows), hi - lo + weights.shape[1]))
        columns = first[rows, None] - lo + np.arange(weights.shape[1])
        dense[np.arange(len(rows))[:, None], columns] = weights[rows]
        dense = dense[:, : hi - lo].T
        parts = _split(fixed_point(dense, bits), bits)
        bands.append(_Band(int(lo), int(hi), parts))
    return tuple(bands), bits


def _round(parts: list[jax.Array], bits: int) -> jax.Array:
    """Rounds the sums of parts to pixels: (sum + half) >> bits, clipped to 0..255; float32."""
    if len(parts) == 2:
        total = (parts[0].astype(jnp.int32) << PART_BITS) + parts[1].astype(jnp.int32)
    else:
        total = parts[0].astype(jnp.int32)
    pixels = (total + (1 << (bits - 1))) >> bits
    return jnp.clip(pixels, 0, 255).astype(jnp.float32)


def _resize_axis(x: jax.Array, axis: int, size_out: int, mode: str) -> jax.Array:
    """One pass over axis -1 or -2 of float32 [..., H, W]; rounded to whole values."""
    if x.shape[axis] == size_out:
        return x
    bands, bits = _bands(x.shape[axis], size_out, mode)
    outputs = []
    for band in bands:
        window = jax.lax.slice_in_dim(x, band.lo, band.hi, axis=axis)
        equation = "...hw,wo->...ho" if axis == -1 else "...hw,ho->...ow"
        sums = [jnp.einsum(equation, window, part, precision="highest") for part in band.parts]
        outputs.append(_round(sums, bits))
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=axis)


def _resize(x: jax.Array, size: Size, mode: str) -> jax.Array:
    """Float32 [..., H, W] of uint8 values to [..., h, w] of uint8 values; horizontal pass first."""
    if mode == "torch_float":
        return resize_float(x, size)
    return _resize_axis(_resize_axis(x, -1, size[1], mode), -2, size[0], mode)


def _resize_chain(frames: jax.Array, steps: Sequence[tuple[Size, str]]) -> jax.Array:
    x = jnp.moveaxis(frames, -1, -3).astype(jnp.float32)
    for size, mode in steps:
        x = _resize(x, tuple(size), mode)
    return jnp.moveaxis(x, -3, -1)


def resize_video(frames_u8: jax.Array, steps: Sequence[Size]) -> jax.Array:
    """uint8 [..., H, W, 3] to float32 [..., h, w, 3] of whole values 0..255.

    steps: the three sizes (height, width) of `tempo_jax.video.resize_steps`: Pillow, Pillow, torchvision;
      static.
    """
    return _resize_chain(frames_u8, list(zip(steps, ("pillow", "pillow", "torch_float"), strict=True)))


def resize_image(image_u8: jax.Array, size: Size) -> jax.Array:
    """One uint8 image [..., H, W, 3] to float32 [..., h, w, 3] of whole values 0..255.

    size: (height, width) of `tempo_jax.video.image_size`. The resampler is that of the Qwen2-VL image
      processor, a single torchvision v2 bicubic on uint8.
    """
    return _resize_chain(image_u8, [(size, "torch_uint8")])


def resize_direct(frames_u8: jax.Array, size: Size) -> jax.Array:
    """uint8 [..., H, W, 3] to float32 [..., h, w, 3] of whole values by one Pillow bicubic.

    The aspect ratio is not preserved, as in XComp (docs/reference/xcomp.md#vision-tower).
    """
    return _resize_chain(frames_u8, [(size, "pillow")])


def normalize(frames: jax.Array) -> jax.Array:
    """Maps pixels from 0..255 to -1..1, float32."""
    return (frames.astype(jnp.float32) / 255.0 - 0.5) / 0.5


@functools.lru_cache(maxsize=64)
def torch_weights(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray]:
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
    table = np.where(taps < (last - first)[:, None], _torch_cubic(np.abs(offsets)), f32(0))
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
    planes = jax.lax.map(lambda plane: _torch_pass(plane, -1, size[1]), planes)
    planes = jax.lax.map(lambda plane: _torch_pass(plane, -2, size[0]), planes)
    return jnp.clip(jnp.round(planes), 0, 255).reshape(*x.shape[:-2], *size)


def _torch_pass(x: jax.Array, axis: int, size_out: int) -> jax.Array:
    if x.shape[axis] == size_out:
        return x
    first, table = torch_weights(x.shape[axis], size_out)
    total = None
    for tap in range(table.shape[1]):
        index = np.minimum(first + tap, x.shape[axis] - 1)
        taken = jnp.take(x, index, axis=axis)
        weight = table[:, tap] if axis == -1 else table[:, tap, None]
        total = taken * weight if total is None else _fma(taken, jnp.asarray(weight), total)
    return total


def _torch_cubic(x: np.ndarray) -> np.ndarray:
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
