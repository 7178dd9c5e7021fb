"""Every kind of media file as a player shows it: the right pictures at the right times, and no false warning.

The files are those of tests/media_cases.py; each picture shows its own number.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from tempo_jax.video import open_video, sample_indices
from tests.media_cases import CASES, Case, check
from tests.media_files import decoded, read_number, turned

NAMES = sorted(CASES)
SPARSE = [name for name in NAMES if len(CASES[name].seconds) >= 400]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory):
    """Gives the path of a case's file, made once."""
    folder = tmp_path_factory.mktemp("media")

    def file(name: str) -> tuple[Case, Path]:
        path = folder / name
        if not path.exists():
            CASES[name].make(path)
        return CASES[name], path

    return file


def numbers_of(source) -> list[int]:
    return [read_number(picture) for chunk in source.chunks(16) for picture in chunk]


def assert_shown(case: Case, source) -> None:
    """What must hold for any sampling of the file."""
    assert (source.kind, source.total_frames) == ("video", len(case.seconds))
    assert source.num_frames == len(source.indices) == len(source.seconds)
    assert_size(case.size, source)
    numbers = numbers_of(source)
    assert numbers == case.numbers[source.indices].tolist()
    off = np.abs(source.seconds - case.seconds[source.indices])
    worst = int((off - case.tolerance()[source.indices]).argmax())
    assert off[worst] <= case.tolerance()[source.indices[worst]] + 1e-6, (
        f"picture {source.indices[worst]} is at {source.seconds[worst]:.3f} s, "
        f"a player shows it at {case.seconds[source.indices[worst]]:.3f} s"
    )
    assert source.start_seconds == pytest.approx(case.seconds[0], abs=case.tolerance()[0] + 1e-6)
    assert_warnings(case, source.warnings)


def assert_size(size: tuple[int, int], source) -> None:
    """(height, width), where pixels that are not square may be stretched in either direction."""
    shown = np.array([source.height, source.width])
    scale = shown / size
    assert abs(scale[0] / scale[1] - 1) < 0.01 and max(abs(scale - 1)) < 0.34, (tuple(shown), size)


def assert_warnings(case: Case, warnings: list[str]) -> None:
    if case.warning:
        assert any(re.search(case.warning, w) for w in warnings), f"no warning of {case.warning}: {warnings}"
    known = "|".join(filter(None, (case.warning, case.may)))
    false = [w for w in warnings if not (known and re.search(known, w))]
    assert not false, f"false warnings: {false}"


@pytest.mark.parametrize("name", NAMES)
def test_shown_as_by_a_player(files, name):
    """At two pictures a second."""
    case, path = files(name)
    source = open_video(path)
    assert_shown(case, source)
    if case.varying:
        assert_evenly_spread(case, source, fps=2.0)
    else:
        expected = sample_indices(len(case.seconds), source.native_fps)
        np.testing.assert_array_equal(source.indices, expected)
        if len(case.seconds) > 10:
            rate = (len(case.seconds) - 1) / (case.seconds[-1] - case.seconds[0])
            assert source.native_fps == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_every_picture(files, name):
    """At a rate that takes most pictures, and with the released sampling by number."""
    case, path = files(name)
    most = min(len(case.seconds), 300)
    source = open_video(path, fps=1000.0, max_frames=most, sampling="index")
    assert_shown(case, source)
    expected = sample_indices(len(case.seconds), source.native_fps, 1000.0, 4, most)
    np.testing.assert_array_equal(source.indices, expected)


@pytest.mark.parametrize("name", [n for n in NAMES if CASES[n].varying])
def test_a_varying_rate_by_number(files, name):
    """sampling="index" gives the released indices, with the pictures' own times."""
    case, path = files(name)
    for fps in (2.0, 7.0):
        source = open_video(path, fps=fps, sampling="index")
        expected = sample_indices(len(case.seconds), source.native_fps, fps)
        np.testing.assert_array_equal(source.indices, expected)
    assert_shown(case, source)


@pytest.mark.parametrize("name", [n for n in NAMES if CASES[n].varying])
def test_a_varying_rate_is_sampled_evenly_in_time(files, name):
    case, path = files(name)
    source = open_video(path, fps=6.0)
    assert_shown(case, source)
    assert_evenly_spread(case, source, fps=6.0)


def assert_evenly_spread(case: Case, source, fps: float) -> None:
    """Each sample is the nearest picture to one of as many even times from the first picture to the last."""
    duration = case.seconds[-1] - case.seconds[0]
    assert source.num_frames == pytest.approx(max(duration * fps, 4), abs=2 + fps * case.tolerance()[-1] * 2)
    even = np.linspace(case.seconds[0], case.seconds[-1], source.num_frames)
    nearest = np.abs(case.seconds[None] - even[:, None]).min(axis=1)
    np.testing.assert_array_less(np.abs(case.seconds[source.indices] - even), nearest + 0.01 + case.slack)


@pytest.mark.parametrize("name", SPARSE)
def test_few_pictures_of_a_long_file(files, name):
    """Few samples, far apart: seeks. The pixels are those of decoding all of it."""
    case, path = files(name)
    whole = [turned(picture, case.turn) for picture in decoded(path, case.plain)[0]]
    for limits in ({"max_frames": 5}, {"max_frames": 12}, {"fps": 0.3}, {"max_frames": 60}):
        source = open_video(path, **limits)
        assert_shown(case, source)
        for index, picture in zip(source.indices, np.concatenate(list(source.chunks(16))), strict=True):
            assert np.abs(picture.astype(int) - whole[index]).max() <= 2, f"picture {index} is not exact"


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("wide_pixels", "narrow_pixels", "pal"))])
def test_pixels_as_stored(files, name):
    """`square_pixels=False` is the released behavior."""
    case, path = files(name)
    stored = {"wide_pixels_turned.mp4": (256, 128), "pal.mpg": (144, 180)}.get(name, (128, 256))
    source = open_video(path, square_pixels=False)
    assert (source.height, source.width) == stored
    assert numbers_of(source) == case.numbers[source.indices].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_the_truths_hold(files, name):
    """The pictures and times that the table tells are those that plain PyAV decodes."""
    assert check(*files(name)) == []
