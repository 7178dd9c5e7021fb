"""The files of ../shared/golden/media, one of each kind that real collections showed, by their expect.json.

Generated ones are copied into tests/golden/media; the camcorder's own sample stays in ../shared.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tempo_jax.video import open_video
from tests.media_files import read_number

FOLDER = Path(__file__).parent / "golden" / "media"
SHARED = Path(__file__).parent.parent.parent / "shared" / "golden" / "media"
EXPECTED = json.loads((FOLDER / "expect.json").read_text())


def _path(name: str) -> Path:
    for folder in (FOLDER, SHARED):
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"{name} is not ours to ship, and ../shared/golden/media is not here")


def _within(value, limits) -> bool:
    """`limits`: a pair, or the value itself."""
    low, high = limits if isinstance(limits, list) else (limits, limits)
    return low <= value <= high


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_media(name):
    expected, source = EXPECTED[name], open_video(_path(name))
    pictures = np.concatenate(list(source.chunks(16)))
    assert source.kind == expected.get("kind", "video")
    assert _within(source.total_frames, expected.get("frames", source.total_frames))
    assert _within(source.duration_seconds, expected.get("seconds", source.duration_seconds))
    assert _within(source.start_seconds, expected.get("start_seconds", 0))
    if "size" in expected:
        assert [source.height, source.width] == expected["size"]
    if "fps" in expected:
        assert source.native_fps == pytest.approx(expected["fps"], rel=0.01)
    if expected.get("barcode") or "mirrored" in expected:
        if "mirrored" in expected:  # as a player shows it, so that the number reads from right to left
            pictures = pictures[:, :, ::-1]
        assert [read_number(p) for p in pictures] == source.indices.tolist()
    if expected.get("warning"):
        assert any(re.search(expected["warning"], w) for w in source.warnings)
    elif "warning" in expected:
        assert source.warnings == []
    if source.kind == "video":
        _check_times(source)


def _check_times(source) -> None:
    """Each sampled picture has its time, from the first one's on."""
    assert len(source.seconds) == source.num_frames
    assert source.seconds[0] >= source.start_seconds - 1e-6
    assert (np.diff(source.seconds) >= 0).all()
    assert source.seconds[-1] <= source.start_seconds + source.duration_seconds + 0.1
