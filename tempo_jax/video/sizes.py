"""Frame sizes of the vision tower: three successive roundings, as in the reference implementation.

Reference: docs/reference/tempo.md#frame-sizes. A: Tempo's limit of 512 on the long side, to multiples of 16.
B: qwen-vl-utils' per-frame step, which is given 32 as its patch size and so rounds
to multiples of 64. C: its per-video step in multiples of 32. Python's round (half to even)
throughout. Together they turn every 16:9 frame into 256x512, which the weights were trained on.
"""

import math

from tempo_jax.errors import TempoError
from tempo_jax.models.config import VideoConfig

FRAME_FACTOR = 64  # step B
VIDEO_FACTOR = 32  # step C, and single images: 16-pixel patches merged 2x2
FRAME_MIN_PIXELS = 4 * FRAME_FACTOR**2
FRAME_MAX_PIXELS = 16_384 * FRAME_FACTOR**2
MAX_ASPECT_RATIO = 200
MIN_SIDE = 2

Size = tuple[int, int]  # (height, width)


def check_size(height: int, width: int, name: str = "The frames") -> None:
    """Refuses sizes that no answer can come from.

    Qwen's rule refuses aspect ratios above 200. It is applied to the recorded size; the reference
    implementation applies it after step A, where 10000x10 has become 512x16 and passes as noise. A side of
    one pixel is refused too: it would be scaled up to a frame of a single color.

    Args:
      height: in pixels.
      width: in pixels.
      name: subject of the error message.

    Raises:
      TempoError: The size is empty, too small or too elongated.
    """
    if min(height, width) < 1:
        raise TempoError(f"{name} are {height}x{width} pixels, that is empty: give frames with pixels.")
    if min(height, width) < MIN_SIDE:
        raise TempoError(
            f"{name} are {height}x{width} pixels, too small to show anything: both sides must have at "
            f"least {MIN_SIDE} pixels."
        )
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise TempoError(
            f"{name} are {height}x{width} pixels, an aspect ratio above {MAX_ASPECT_RATIO}: crop or pad them."
        )


def _nearest(value: float, factor: int) -> int:
    return round(value / factor) * factor


def _smart_resize(height: int, width: int, factor: int, least: int, most: int) -> Size:
    """Qwen's rule: multiples of `factor`, least <= area <= most, aspect ratio about kept.

    The scale comes from the exact sides, not from the rounded ones.
    """
    high, wide = max(factor, _nearest(height, factor)), max(factor, _nearest(width, factor))
    if high * wide > most:
        shrink = math.sqrt(height * width / most)
        high = max(factor, math.floor(height / shrink / factor) * factor)
        wide = max(factor, math.floor(width / shrink / factor) * factor)
    elif high * wide < least:
        grow = math.sqrt(least / (height * width))
        high = math.ceil(height * grow / factor) * factor
        wide = math.ceil(width * grow / factor) * factor
    return high, wide


def _limit_side(height: int, width: int, max_side: int) -> Size:
    """Step A: the long side down to max_side, both sides to multiples of 16."""
    longest = max(height, width)
    if longest <= max_side:
        return height, width
    ratio = max_side / longest
    high, wide = (max(16, int(round(side * ratio / 16) * 16)) for side in (height, width))
    return high, wide


def resize_steps(height: int, width: int, config: VideoConfig | None = None) -> list[Size]:
    """The three sizes (height, width) a frame goes through: after A, after B, after C.

    A step that changes nothing repeats the size before it. A and B are Pillow bicubic, C is
    torchvision's (`tempo_jax.models.resize`).

    Args:
      height: recorded height, in pixels.
      width: recorded width, in pixels.
      config: a model's limits; None: those of the authors' models.

    Returns:
      [size after A, size after B, size after C].

    Raises:
      TempoError: As `check_size`.
    """
    check_size(height, width)
    config = config or VideoConfig()
    after_a = _limit_side(height, width, config.max_side)
    after_b = _smart_resize(*after_a, FRAME_FACTOR, FRAME_MIN_PIXELS, FRAME_MAX_PIXELS)
    most = max(config.max_pixels, int(1.05 * config.min_pixels))
    after_c = _smart_resize(*after_b, VIDEO_FACTOR, config.min_pixels, most)
    return [after_a, after_b, after_c]


def model_size(height: int, width: int, config: VideoConfig | None = None) -> Size:
    """Size of a video frame in the vision tower.

    Args:
      height: recorded height, in pixels.
      width: recorded width, in pixels.
      config: a model's limits; None: those of the authors' models.

    Returns:
      (height, width), multiples of 32.

    Raises:
      TempoError: As `check_size`.
    """
    return resize_steps(height, width, config)[-1]


def image_size(height: int, width: int, config: VideoConfig | None = None) -> Size:
    """(height, width) of a single image by Qwen2-VL's rule alone (docs/reference/tempo.md#images).

    Steps A to C do not apply to images.

    Args:
      height: recorded height, in pixels.
      width: recorded width, in pixels.
      config: a model's limits; None: those of the authors' models.

    Returns:
      (height, width), multiples of 32, of 65,536 to 16,777,216 pixels.

    Raises:
      TempoError: As `check_size`.
    """
    check_size(height, width, "The image's sides")
    config = config or VideoConfig()
    return _smart_resize(height, width, VIDEO_FACTOR, config.image_min_pixels, config.image_max_pixels)
