"""Frames to the model's size on the host: the very pixels `tempo_jax.models.resize` makes on the device.

Preparing meets thousands of picture sizes, and the device's programs would be compiled for each. Pillow's
own resampling is exact as long as the passes are called one by one, the horizontal one first.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from tempo_jax.models.config import VideoConfig
from tempo_jax.video.sizes import image_size, resize_steps

Size = tuple[int, int]  # (height, width)


def video_frame(frame: np.ndarray, limits: VideoConfig) -> np.ndarray:
    """uint8 [H, W, 3] of a video to uint8 [h, w, 3] = video.model_size. TempoError: impossible size."""
    after_a, after_b, after_c = resize_steps(*frame.shape[:2], limits)
    return _torch_float(_pillow(_pillow(frame, after_a), after_b), after_c)


def image(frame: np.ndarray, limits: VideoConfig) -> np.ndarray:
    """uint8 [H, W, 3] of a single image to uint8 [h, w, 3] = video.image_size. TempoError as above."""
    return _torch_uint8(frame, image_size(*frame.shape[:2], limits))


def to_size(frame: np.ndarray, size: Size) -> np.ndarray:
    """uint8 [H, W, 3] to a size of the caller's choice; Pillow's bicubic, as steps A and B."""
    return _pillow(frame, size)


def _pillow(frame: np.ndarray, size: Size) -> np.ndarray:
    if frame.shape[:2] == size:
        return frame
    height, width = size
    wide = Image.fromarray(frame).resize((width, frame.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(wide.resize((width, height), Image.Resampling.BICUBIC))


def _torch_uint8(frame: np.ndarray, size: Size) -> np.ndarray:
    """torchvision v2 on uint8: integer weights of 16 bits, rounded after each pass."""
    if frame.shape[:2] == size:
        return frame
    from tempo_jax.models.resize import _fixed_point, _torch_bits, _windows

    x = frame.astype(np.int32)
    for axis in (1, 0):
        if x.shape[axis] != size[axis]:
            first, _, weights = _windows(x.shape[axis], size[axis])
            bits = _torch_bits(weights.max())
            total = np.int32(1 << (bits - 1))
            for taken, weight in _taps(x, axis, first, _fixed_point(weights, bits).astype(np.int32)):
                total = total + taken * weight
            x = np.clip(total >> bits, 0, 255)
    return x.astype(np.uint8)


def _torch_float(frame: np.ndarray, size: Size) -> np.ndarray:
    """torchvision v1 on float32: fused multiply-adds, rounded once at the end."""
    if frame.shape[:2] == size:
        return frame
    from tempo_jax.models.torch_resize import _np_fma, weights

    x = frame.astype(np.float32)
    for axis in (1, 0):
        if x.shape[axis] != size[axis]:
            total = None
            for taken, weight in _taps(x, axis, *weights(x.shape[axis], size[axis])):
                total = taken * weight if total is None else _np_fma(taken, weight, total)
            x = total
    return np.clip(np.round(x), 0, 255).astype(np.uint8)


def _taps(
    x: np.ndarray, axis: int, first: np.ndarray, table: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Per tap: the input each output takes, and its weights shaped to broadcast along `axis` of [H, W, 3]."""
    for tap in range(table.shape[1]):
        index = np.minimum(first + tap, x.shape[axis] - 1)
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        yield np.take(x, index, axis=axis), table[:, tap].reshape(shape)
