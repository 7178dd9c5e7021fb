"""Resizes frames to the model's size on the host, bit-identical to `tempo_jax.models.resize` on the device.

Preparing meets thousands of image sizes, for each of which the device would compile a program. Pillow's
resampling is exact as long as the passes are called separately, the horizontal one first.
"""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from tempo_jax.models.config import VideoConfig
from tempo_jax.video.sizes import image_size, resize_steps

Size = tuple[int, int]  # (height, width)


def video_frame(frame: np.ndarray, limits: VideoConfig) -> np.ndarray:
    """Resizes a video frame, uint8 [H, W, 3], to video.model_size; raises TempoError for an invalid size."""
    after_a, after_b, after_c = resize_steps(*frame.shape[:2], limits)
    return _torch_float(_pillow(_pillow(frame, after_a), after_b), after_c)


def image(frame: np.ndarray, limits: VideoConfig) -> np.ndarray:
    """Resizes an image, uint8 [H, W, 3], to video.image_size; raises TempoError for an invalid size."""
    return _torch_uint8(frame, image_size(*frame.shape[:2], limits))


def to_size(frame: np.ndarray, size: Size) -> np.ndarray:
    """Resizes uint8 [H, W, 3] to any size with Pillow's bicubic filter."""
    return _pillow(frame, size)


def _pillow(frame: np.ndarray, size: Size) -> np.ndarray:
    if frame.shape[:2] == size:
        return frame
    height, width = size
    wide = Image.fromarray(frame).resize((width, frame.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(wide.resize((width, height), Image.Resampling.BICUBIC))


def _torch_uint8(frame: np.ndarray, size: Size) -> np.ndarray:
    """Resizes as torchvision v2 does on uint8: 16-bit integer weights, rounded after each pass."""
    from tempo_jax.models.resize import fixed_point, torch_bits, windows

    def one_pass(x: np.ndarray, count: int) -> np.ndarray:
        first, _, weights = windows(len(x), count)
        bits = torch_bits(weights.max())
        total = np.full((count, x.shape[1]), 1 << (bits - 1), np.int32)
        for taken, weight in _gather_taps(x, first, fixed_point(weights, bits).astype(np.int32)):
            total += taken * weight
        return np.clip(total >> bits, 0, 255, out=total).astype(np.uint8)

    return _both_passes(frame, size, one_pass)


def _torch_float(frame: np.ndarray, size: Size) -> np.ndarray:
    """Resizes as torchvision v1 does on float32: fused multiply-adds, rounded once at the end."""
    from tempo_jax.models.resize import np_fma, torch_weights

    def one_pass(x: np.ndarray, count: int) -> np.ndarray:
        total = None
        for taken, weight in _gather_taps(x, *torch_weights(len(x), count)):
            total = taken * weight if total is None else np_fma(taken, weight, total)
        return total

    if frame.shape[:2] == size:
        return frame
    return np.clip(np.round(_both_passes(frame, size, one_pass)), 0, 255).astype(np.uint8)


def _both_passes(frame: np.ndarray, size: Size, one_pass: Callable) -> np.ndarray:
    """Resizes [H, W, 3] to [h, w, 3]; `one_pass` resamples the rows of [N, M], where gathering is fast."""
    x = frame
    for count in (size[1], size[0]):  # columns as rows first
        x = np.ascontiguousarray(x.swapaxes(0, 1))
        if len(x) != count:
            x = one_pass(x.reshape(len(x), -1), count).reshape(count, *x.shape[1:])
    return x


def _gather_taps(
    x: np.ndarray, first: np.ndarray, table: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields for each tap the input rows of all output rows, [outputs, M], and the weights, [outputs, 1]."""
    for tap in range(table.shape[1]):
        yield x[np.minimum(first + tap, len(x) - 1)], table[:, tap, None]
