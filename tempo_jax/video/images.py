"""Images by Pillow: still ones, folders of them, and animated WebP, which FFmpeg does not decode.

EXIF orientation is applied as every viewer does; `exif=False` leaves them as stored, as the reference
implementation does. Transparency is laid over white, as Qwen's own image utilities do.
"""

import contextlib
import mmap
import re
import struct
import warnings
from collections.abc import Generator
from decimal import Decimal
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tempo_jax.errors import TempoError
from tempo_jax.video import declared, file_index

# Only these are tried: Pillow also knows formats that run other programs (EPS) and video (MPEG).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "AVIF", "JPEG2000")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".avif", ".jp2", ".heic", ".heif", ".hif"),
)
DAMAGE = (
    *(
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        RuntimeError,
        IndexError,
        KeyError,
        struct.error,
        TypeError,
    ),
    Image.DecompressionBombError,
)
# ISO brands of HEIF and AVIF: stills, which Pillow composes of their tiles, and sequences, which are films.
_STILLS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"avif", b"miaf")
_SEQUENCES = (b"hevc", b"hevx", b"msf1", b"avis")


def opened(path: Path) -> Image.Image:
    """The image with its header read. Raises what Pillow does."""
    with path.open("rb") as file:
        if _brands(file.read(64)) & set(_STILLS):
            import pillow_heif  # slow to import, and few files need it

            pillow_heif.register_heif_opener()
            return Image.open(path, formats=(*FORMATS, "HEIF"))
    return Image.open(path, formats=FORMATS)


def _open(path: Path) -> Image.Image | None:
    """The image with its header read; None if it is no image in one of FORMATS."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            return opened(path)
        except UnidentifiedImageError:
            return None
        except Image.DecompressionBombError as error:
            raise TempoError(f"{path} has too many pixels: scale it down first.") from error
        except PermissionError as error:
            raise TempoError(f"{path} may not be read: change its permissions.") from error
        except DAMAGE as error:
            raise TempoError(f"{path} is a damaged image: get a complete copy.") from error


def _brands(head: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO file, from its first bytes."""
    if head[4:8] != b"ftyp":
        return set()
    size = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[place : place + 4] for place in range(16, size - 3, 4))}


def identify(path: Path) -> Image.Image | None:
    """Opens a file as a single image.

    Args:
      path: an existing file.

    Returns:
      The image with its header read; None for anything that moves (animated GIF, PNG and AVIF, HEIF
      sequences, raw Motion JPEG) and for what is no image.

    Raises:
      TempoError: it is an image, but damaged, too large or not to be read.
    """
    with path.open("rb") as file:
        head = file.read(64)
    brands = _brands(head)
    if brands & set(_SEQUENCES) or (brands and not brands & set(_STILLS)):
        return None
    # Without this, files whose content merely resembles TGA (which has no signature) would match.
    if path.suffix.lower() not in SUFFIXES and not _has_signature(head) and not brands:
        return None
    picture = _open(path)
    if picture is None:
        return None
    try:
        moves = picture.format in ("GIF", "PNG", "AVIF") and getattr(picture, "n_frames", 1) > 1
    except DAMAGE:  # a still would have none of this to count
        moves = True
    if moves or (picture.format == "JPEG" and _motion_jpeg(path)):
        picture.close()
        return None
    return picture


def _motion_jpeg(path: Path) -> bool:
    """Whether a file is JPEGs one behind the other: raw Motion JPEG.

    Cameras append one or two pictures to a photo (depth, brightness); a film has more.
    """
    least = 1 if path.suffix.lower() in (".mjpeg", ".mjpg") else 3
    with (
        path.open("rb") as file,
        contextlib.closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as data,
    ):
        place, joints = -1, 0
        while joints < least and (place := data.find(b"\xff\xd9\xff\xd8\xff", place + 1)) >= 0:
            joints += 1
    return joints >= least


def is_still(path: Path) -> bool:
    """Whether a file is one image; also of a damaged or empty one, which its reader tells."""
    try:
        with contextlib.ExitStack() as stack:
            picture = identify(path)
            return picture is not None and not is_animated(stack.enter_context(picture))
    except (TempoError, OSError):
        return False


def is_animated(picture: Image.Image) -> bool:
    """Whether an opened image has several pictures in time that FFmpeg cannot decode (WebP)."""
    try:
        return picture.format == "WEBP" and getattr(picture, "n_frames", 1) > 1
    except DAMAGE:
        return False


def misnamed(path: Path) -> bool:
    """Whether a file has an image's suffix and is no image."""
    return path.suffix.lower() in SUFFIXES and _open(path) is None


def _has_signature(head: bytes) -> bool:
    known = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
    return head.startswith(known) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def upright_size(picture: Image.Image, exif: bool = True) -> tuple[int, int]:
    """(height, width) of an image as `to_rgb` gives it, from its header alone."""
    sides = (picture.height, picture.width)
    return sides[::-1] if exif and _orientation(picture) in (5, 6, 7, 8) else sides


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(0x0112, 1))
    except DAMAGE:  # broken tags are no tags
        return 1


def to_rgb(picture: Image.Image, name: Path | str, exif: bool = True) -> np.ndarray:
    """Decodes an image.

    Args:
      picture: of any mode: palette, grey, CMYK, 16-bit and transparent ones included.
      name: for sentences.
      exif: whether to turn it upright by its EXIF orientation.

    Returns:
      uint8 [H, W, 3].

    Raises:
      TempoError: the image is damaged.
    """
    try:
        if exif and 2 <= _orientation(picture) <= 8:
            picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I;16"):
            grey = (np.asarray(picture) >> 8).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
            picture = Image.alpha_composite(white, picture)
        return np.asarray(picture.convert("RGB"))
    except DAMAGE as error:
        raise TempoError(f"{name} is a damaged image: get a complete copy.") from error


def _natural(path: Path) -> list:
    """Sort key that puts frame2 before frame10 and t0.25 before t0.5."""
    parts = re.split(r"([0-9]+(?:\.[0-9]+)?)", path.stem.lower())
    return [(Decimal(part), "") if number % 2 else (Decimal(-1), part) for number, part in enumerate(parts)]


def list_images(folder: Path) -> list[Path]:
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


def common_size(files: list[Path], exif: bool = True) -> tuple[int, int]:
    """(height, width) all the files share, from their headers; TempoError naming one that differs."""
    first = None
    for file in files:
        with _required(file) as picture:
            size = upright_size(picture, exif)
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


def load(file: Path, size: tuple[int, int], exif: bool = True) -> np.ndarray:
    """uint8 [H, W, 3] of one frame of a folder; TempoError if it is not `size` (height, width)."""
    with _required(file) as picture:
        pixels = to_rgb(picture, file, exif)
    if pixels.shape[:2] != size:
        raise TempoError(f"{file} changed its size while it was being read: try again.")
    return pixels


SHORTEST_SECONDS = 0.1  # of a picture whose duration is not said; what browsers take


class Animation:
    """An animated picture file.

    Attributes:
      height, width: in pixels.
      timeline: when each picture is shown.
      warnings: sentences for the user.
    """

    def __init__(self, path: Path):
        """Raises TempoError where no picture can be read."""
        self.path, self.warnings = path, []
        lengths = []
        try:
            with opened(path) as picture:
                self.height, self.width = picture.height, picture.width
                for number in range(picture.n_frames):
                    picture.seek(number)
                    picture.load()
                    lengths.append(float(picture.info.get("duration") or 0) / 1000 or SHORTEST_SECONDS)
        except DAMAGE as error:
            if not lengths:
                raise TempoError(f"{path} is a damaged image: get a complete copy.") from error
            self.warnings.append(f"{path.name} is damaged: it breaks off after {len(lengths)} pictures.")
        fault = declared.fault(path, "webp_pipe")
        if fault and not self.warnings:
            self.warnings.append(f"{path.name} {fault}.")
        starts = np.concatenate([[0.0], np.cumsum(lengths[:-1])])
        self.timeline = file_index.timeline(starts, 0.0, lengths[-1], tick=1e-3)

    def frames(self, indices: np.ndarray) -> Generator[np.ndarray, None, None]:
        """Yields uint8 [height, width, 3] for every index, which ascend."""
        with opened(self.path) as picture:
            number, pixels = -1, None
            for index in indices:
                if index != number:
                    picture.seek(int(index))
                    number, pixels = index, to_rgb(picture, self.path, exif=False)
                yield pixels
