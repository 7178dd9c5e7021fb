"""Plots of an answer: exact size, something drawn for every segment, no warnings, clear refusals."""

import warnings

import numpy as np
import pytest
from PIL import Image

from tempo_jax.errors import TempoError
from tempo_jax.runtime import plot
from tempo_jax.runtime.results import Answer, Segment


def segments(tokens, seconds=4.0):
    return [
        Segment(i, i * seconds, (i + 1) * seconds, relevance=min(1.0, k / 128), tokens=k)
        for i, k in enumerate(tokens)
    ]


def answer(parts):
    return Answer("A cat.", [1, 2], parts, {"frames": 1, "visual_tokens": 1}, {"total": 1.0})


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("count", [1, 3, 8, 128, 256])
def test_size_and_content(tmp_path, count):
    path = tmp_path / "a.png"
    rng = np.random.default_rng(count)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot.plot_allocation(segments(rng.integers(4, 129, count), 16.0), path, title="What colour?")
    image = pixels(path)
    assert image.shape == (400, 1600, 3)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize("size", [(1600, 400), (800, 300)])
def test_size_is_a_parameter(tmp_path, size):
    plot.plot_allocation(segments([4, 128]), tmp_path / "a.png", size=size)
    assert pixels(tmp_path / "a.png").shape == (size[1], size[0], 3)


@pytest.mark.parametrize("count", [2, 8, 40, 200])
def test_strip_has_one_box_a_segment(tmp_path, count):
    """Alternate 4 and 128 tokens: along the strip's middle row the colour changes count-1 times."""
    plot.plot_allocation(segments([4, 128] * (count // 2)), tmp_path / "a.png")
    row = pixels(tmp_path / "a.png")[68, 110:1508].sum(-1)
    dark = row < 250  # 128 tokens are near black, 4 tokens and the gaps near white
    assert np.abs(np.diff(dark.astype(int))).sum() == count - 1


def test_step_line_is_where_the_tokens_are(tmp_path):
    """A segment at the cap draws its line above a segment at the floor."""
    plot.plot_allocation(segments([128, 4]), tmp_path / "a.png")
    image = pixels(tmp_path / "a.png")
    blue = np.abs(image - np.array([0x1D, 0x4E, 0x89])).sum(-1) < 30
    heights = [np.flatnonzero(blue[95:330, x]).mean() for x in (400, 1200)]
    assert heights[0] < 30 < 180 < heights[1]


@pytest.mark.parametrize(
    "title", ["視頻裡發生了什麼？", "قطة 👩‍👩‍👧 \U0010ffff", "a\nb\t$5 and $x^{", "x" * 5000, " ", "\x00\x07"]
)
def test_any_title(tmp_path, title):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot.plot_allocation(segments([4, 128]), tmp_path / "a.png", title=title)
    # The title stays left of the sums at the right.
    header = pixels(tmp_path / "a.png")[:45].sum(-1) < 600
    assert not header[:, 1120:1200].any()


def test_undrawable_titles_have_no_boxes(monkeypatch):
    monkeypatch.setattr(plot.font_manager.fontManager, "ttflist", [])
    assert plot.drawable("where is 猫 now?")[1] == "where is · now?"
    assert plot.drawable("視頻裡發生了什麼？")[1] == "(no installed font can draw the question)"
    assert plot.drawable(" one\n line ")[1] == "one line"


def test_single_frame_of_no_duration(tmp_path):
    plot.plot_allocation([Segment(0, 0.0, 0.0, 0.5, 128)], tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").shape == (400, 1600, 3)


@pytest.mark.parametrize("name", ["a.pdf", "a.svg", "a.jpg", "a.PNG"])
def test_formats(tmp_path, name):
    plot.plot_allocation(segments([4, 128]), tmp_path / name)
    assert (tmp_path / name).stat().st_size > 1000


def test_image_has_nothing_to_plot(tmp_path):
    with pytest.raises(TempoError, match="nothing to plot"):
        answer([]).plot(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a", "no file ending"),
        ("a.txt", "ends in .txt"),
        ("no/a.png", "does not exist"),
        ("folder.png", "is a folder"),
    ],
)
def test_bad_paths(tmp_path, name, message):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(TempoError, match=message):
        plot.plot_allocation(segments([4]), tmp_path / name)


def test_answer_plots_with_its_own_limits(tmp_path):
    parts = segments([4, 16])
    Answer("", [], parts, {}, {}, token_limits=(4, 16)).plot(tmp_path / "a.png", title="x")
    plot.plot_allocation(parts, tmp_path / "b.png", title="x", floor=4, cap=16)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


def test_answer_as_json():
    import json

    given = Answer(
        "猫",
        np.array([1, 2], np.int32),
        (Segment(0, 0.0, np.float64(4.0), np.float32("nan"), np.int32(7)),),
        {"frames": np.int64(8), "tokens_per_frame": np.float32(0.5)},
        {"total": 1.5},
        ["A warning."],
    )
    values = json.loads(given.to_json())
    assert values == {
        "text": "猫",
        "token_ids": [1, 2],
        "segments": [
            {"index": 0, "start_seconds": 0.0, "end_seconds": 4.0, "relevance": None, "tokens": 7},
        ],
        "usage": {"frames": 8, "tokens_per_frame": 0.5},
        "timings": {"total": 1.5},
        "warnings": ["A warning."],
        "token_limits": [4, 128],
    }
    assert "猫" in given.to_json()
