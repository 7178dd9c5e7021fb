"""Photos as a viewer shows them: turned by their EXIF orientation, unless asked not to."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from tempo_jax.video import open_video
from tests.media_files import TURNS, paint, read_number, stored

# EXIF orientation: the display matrix that it stands for.
ORIENTATIONS = {
    1: "upright",
    2: "mirrored",
    3: "turned_180",
    4: "flipped",
    5: "transposed",
    6: "turned_90",
    7: "transversed",
    8: "turned_270",
}
NUMBER = 1234


def _save(path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    pixels = np.ascontiguousarray(stored(paint(NUMBER), TURNS[ORIENTATIONS[orientation]]))
    lossless = {"quality": 95} if path.suffix in (".jpg", ".webp", ".avif") else {}
    Image.fromarray(pixels).save(path, exif=exif.tobytes(), **lossless)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_photos_are_turned(tmp_path, suffix, orientation):
    path = tmp_path / f"photo.{suffix}"
    _save(path, orientation)
    source = open_video(path)
    (picture,) = next(source.chunks(1))
    assert (source.kind, source.height, source.width) == ("image", 128, 256)
    assert picture.shape == (128, 256, 3) and read_number(picture) == NUMBER
    assert source.warnings == []


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_photos_as_stored(tmp_path, orientation):
    """`exif=False` is the released behavior."""
    path = tmp_path / "photo.png"
    _save(path, orientation)
    source = open_video(path, exif=False)
    as_stored = stored(paint(NUMBER), TURNS[ORIENTATIONS[orientation]])
    assert (source.height, source.width) == as_stored.shape[:2]
    np.testing.assert_array_equal(next(source.chunks(1))[0], as_stored)


def test_folders_of_photos_are_turned(tmp_path):
    """Each picture by its own orientation."""
    for orientation in ORIENTATIONS:
        _save(tmp_path / f"photo_{orientation}.jpg", orientation)
    source = open_video(tmp_path)
    pictures = np.concatenate(list(source.chunks(3)))
    assert pictures.shape == (8, 128, 256, 3)
    assert [read_number(picture) for picture in pictures] == [NUMBER] * 8
