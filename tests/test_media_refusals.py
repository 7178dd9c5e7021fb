"""Files that cannot be shown: each kind gets a sentence of its own, that is true."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tempo_jax.errors import TempoError
from tempo_jax.video import open_video
from tests.media_cases import CASES
from tests.media_files import Picture, Sound, paint, write

DAMAGED = "damaged|complete copy|incomplete|cut"


def _fragments(folder: Path) -> tuple[bytes, bytes]:
    """What stands before the first fragment of an MP4, and the rest."""
    path = folder / "whole.mp4"
    CASES["fragmented.mp4"].make(path)
    data = path.read_bytes()
    place = data.index(b"moof") - 4
    path.unlink()
    return data[:place], data[place:]


def _init_segment(path: Path) -> None:
    path.write_bytes(_fragments(path.parent)[0])


def _media_segment(path: Path) -> None:
    path.write_bytes(_fragments(path.parent)[1])


def _encrypted(path: Path) -> None:
    key = "76a6c65c5ea762046bd749a2e632ccbb"
    scheme = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": key, "encryption_kid": key}
    write(path, [Picture()], options=scheme)


def _unknown_codec(path: Path) -> None:
    write(path, [Picture()])
    path.write_bytes(path.read_bytes().replace(b"avc1", b"xyz1"))


def _unknown_matroska_codec(path: Path) -> None:
    write(path, [Picture()])
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ"))


def _without_index(path: Path) -> None:
    write(path, [Picture()])
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 100])


def _sound_only(path: Path) -> None:
    write(path, [Sound(0, 2, "aac")])


def _sound_with_cover(path: Path) -> None:
    cover = path.with_name("cover.jpg")
    Image.fromarray(paint(1)).save(cover)
    write(path, [Sound(0, 2)], cover=cover.read_bytes())
    cover.unlink()


def _web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>404: this video has moved.</body></html>\n" * 20)


def _text(path: Path) -> None:
    path.write_text("Notes on the lecture.\n" * 50)


def _half_a_photo(path: Path) -> None:
    Image.fromarray(paint(1)).save(path)
    path.write_bytes(path.read_bytes()[:1500])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


# (file, how it is made, what the sentence says, what it must not say)
REFUSED = [
    ("init.mp4", _init_segment, "init|segment|fragment|picture data", None),
    ("segment.m4s", _media_segment, "init|segment|fragment", None),
    ("rented.mp4", _encrypted, "encrypt", DAMAGED),
    ("new.mp4", _unknown_codec, "codec|xyz1|decoded", DAMAGED),
    ("new.mkv", _unknown_matroska_codec, "codec|decoded", DAMAGED),
    ("cut.mp4", _without_index, DAMAGED, None),
    ("song.m4a", _sound_only, "sound", DAMAGED),
    ("song.mka", _sound_with_cover, "sound", DAMAGED),
    ("page.mp4", _web_page, "text|web page|cannot be read", DAMAGED),
    ("notes.jpg", _text, "text|not an image|cannot be read", DAMAGED),
    ("notes.mp4", _text, "text|cannot be read", DAMAGED),
    ("half.jpg", _half_a_photo, DAMAGED, None),
    ("empty.mp4", _empty, "empty", None),
]


@pytest.mark.parametrize(("name", "make", "says", "never"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused_in_a_sentence(tmp_path, name, make, says, never):
    make(tmp_path / name)
    with pytest.raises(TempoError) as caught:
        list(open_video(tmp_path / name).chunks(4))
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith((".", "?")) and name in sentence
    assert re.search(says, sentence)
    assert not (never and re.search(never, sentence.replace(str(tmp_path), ""))), sentence
