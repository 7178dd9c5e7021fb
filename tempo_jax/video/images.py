"""Still images by Pillow: single ones, and folders of them.

EXIF orientation is not applied: the published code does not either, and the weights have seen
pictures as stored. Transparency is laid over white, as Qwen's own image utilities do.
"""

import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tempo_jax.errors import TempoError

# Only these are tried: Pillow also knows formats that run other programs (EPS) and video (MPEG).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "AVIF", "JPEG2000")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".avif", ".jp2"),
)


def _open(path: Path) -> Image.Image | None:
    """The image with its header read; None if it is no image in one of FORMATS."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            return Image.open(path, formats=FORMATS)
        except UnidentifiedImageError:
            return None
        except Image.DecompressionBombError as error:
            raise TempoError(f"{path} has too many pixels: scale it down first.") from error
        except PermissionError as error:
            raise TempoError(f"{path} may not be read: change its permissions.") from error
        except (OSError, ValueError, SyntaxError) as error:
            raise TempoError(f"{path} is a damaged image: get a complete copy.") from error


def identify(path: Path) -> Image.Image | None:
    """`path` as an image, or None if it is something else; a GIF that moves is something else."""
    # Without this, files whose content merely resembles TGA (which has no signature) would match.
    if path.suffix.lower() not in SUFFIXES and not _has_signature(path):
        return None
    picture = _open(path)
    if picture is not None and picture.format == "GIF" and getattr(picture, "n_frames", 1) > 1:
        return None
    return picture


def _has_signature(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(12)
    known = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
    return head.startswith(known) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def to_rgb(picture: Image.Image, name: Path | str) -> np.ndarray:
    """uint8 [H, W, 3]; palette, grey, CMYK, 16-bit and transparent pictures included."""
    try:
        if picture.mode.startswith("I;16"):
            grey = (np.asarray(picture) >> 8).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
            picture = Image.alpha_composite(white, picture)
        return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise TempoError(f"{name} is a damaged image: get a complete copy.") from error


def _natural(path: Path) -> list:
    """Sort key that puts frame2 before frame10."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def listing(folder: Path) -> list[Path]:
    """Image files of a folder in natural order, hidden ones left out; TempoError if there is none."""
    try:
        files = [f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")]
    except OSError as error:
        raise TempoError(f"{folder} may not be read: change its permissions.") from error
    if not files:
        raise TempoError(
            f"{folder} has no images in it: give a video file or a folder of .jpg or .png frames."
        )
    return sorted(files, key=lambda f: (_natural(f), f.name))


def common_size(files: list[Path]) -> tuple[int, int]:
    """(height, width) all the files share, from their headers; TempoError naming one that differs."""
    first = None
    for file in files:
        with _required(file) as picture:
            size = (picture.height, picture.width)
        first = first or size
        if size != first:
            raise TempoError(
                f"{file} is {size[0]}x{size[1]} pixels, but {files[0].name} is {first[0]}x{first[1]}: "
                "the frames of a folder must all have one size."
            )
    return first


def _required(file: Path) -> Image.Image:
    picture = _open(file)
    if picture is None:
        raise TempoError(f"{file} is not an image despite its name: remove it or get a complete copy.")
    return picture


def load(file: Path, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] of one frame of a folder; TempoError if it is not `size` (height, width)."""
    with _required(file) as picture:
        pixels = to_rgb(picture, file)
    if pixels.shape[:2] != size:
        raise TempoError(f"{file} changed its size while it was being read: try again.")
    return pixels
