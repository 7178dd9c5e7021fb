"""Frame sampling, segments, time tags and frame sizes against the recorded published numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempo_jax.errors import TempoError
from tempo_jax.models.config import VideoConfig
from tempo_jax.prompts import time_tag
from tempo_jax.video import (
    image_size,
    model_size,
    real_fps,
    resize_steps,
    sample_indices,
    segment_count,
    segments,
    slice_frames,
    slice_seconds,
)

CASES = json.loads((Path(__file__).parent / "golden" / "pipeline_cases.json").read_text())


@pytest.mark.parametrize("case", CASES["resize"], ids=lambda c: "x".join(map(str, c["src_hw"])))
def test_sizes_match_recorded_steps(case):
    steps = resize_steps(*case["src_hw"])
    assert steps == [tuple(case[k]) for k in ("after_step_a_hw", "after_step_b_hw", "final_hw")]
    height, width = model_size(*case["src_hw"])
    assert [height // 16, width // 16] == case["grid_hw"]
    assert (height // 32) * (width // 32) == case["llm_tokens_per_temporal_slice"]


@pytest.mark.parametrize("case", CASES["frame_sampling"], ids=lambda c: str(c["total_frames"]))
def test_sampling_matches_recorded_indices(case):
    total, rate, fps = case["total_frames"], case["original_fps"], case["target_fps"]
    indices = sample_indices(total, rate, fps, case["min_frames"], case["max_frames"])
    assert len(indices) == case["count"]
    assert indices[:10].tolist() == case["first10"]
    assert indices[-5:].tolist() == case["last5"]
    # The published script divides by zero where a file has no rate; we take it as recorded at fps.
    assert real_fps(len(indices), total, rate, fps) == (case["real_fps"] or fps)


@pytest.mark.parametrize("case", CASES["segments"], ids=lambda c: f"{c['n_frames']}@{c['real_fps']}")
def test_segments_match_recorded_tags(case):
    found = segments(case["n_frames"], case["real_fps"])
    assert [f"<{s.tag_seconds:.1f} seconds>" for s in found] == case["global_tags"]
    slices = [[f"<{t:.1f} seconds>" for t in s.slice_seconds] for s in found]
    assert slices == case["compressor_tags"]
    assert [s.num_slices for s in found] == [grid[0] for grid in case["grid_thw"]]
    assert sum(s.num_frames for s in found) == case["n_frames"]
    assert len(slice_frames(case["n_frames"])) == sum(s.num_slices for s in found)


def test_slices_repeat_the_last_frame():
    assert slice_frames(5).tolist() == [[0, 1], [2, 3], [4, 4]]
    assert slice_frames(1).tolist() == [[0, 0]]


def test_missing_rates_count_as_one_for_tags():
    assert segments(8, 0.0)[0].tag_seconds == 4.0


@settings(deadline=None)
@given(
    total=st.integers(0, 200_000),
    rate=st.one_of(st.none(), st.floats(-1, 240), st.just(float("nan"))),
    fps=st.floats(0.01, 60),
    limits=st.tuples(st.integers(1, 2048), st.integers(1, 2048)),
)
def test_indices_are_sorted_and_in_range(total, rate, fps, limits):
    least, most = sorted(limits)
    indices = sample_indices(total, rate, fps, least, most)
    assert (np.diff(indices) >= 0).all()
    assert indices.min() >= 0 and indices.max() <= max(total - 1, 0)
    assert (least <= len(indices) <= most) or (total <= 1 and len(indices) == 1)
    assert real_fps(len(indices), total, rate, fps) > 0


@given(total=st.integers(1, 3000), fps=st.floats(0.05, 30), frames=st.sampled_from([2, 4, 8, 16]))
def test_segments_cover_every_frame_once(total, fps, frames):
    found = segments(total, fps, frames)
    assert len(found) == segment_count(total, frames)
    assert [s.start for s in found] == list(range(0, total, frames))
    assert [s.stop for s in found] == [min(s.start + frames, total) for s in found]


@given(height=st.integers(2, 6000), width=st.integers(2, 6000))
def test_model_sizes_keep_the_limits(height, width):
    if max(height, width) / min(height, width) > 200:
        with pytest.raises(TempoError, match="aspect ratio"):
            model_size(height, width)
        return
    config = VideoConfig()
    high, wide = model_size(height, width)
    assert high % 32 == wide % 32 == 0
    assert config.min_pixels <= high * wide <= config.max_pixels
    high, wide = image_size(height, width)
    assert high % 32 == wide % 32 == 0
    assert config.image_min_pixels <= high * wide <= config.image_max_pixels


@given(
    height=st.integers(2, 2000),
    width=st.integers(2, 2000),
    config=st.builds(
        VideoConfig,
        max_side=st.sampled_from([64, 128, 256]),
        min_pixels=st.sampled_from([1024, 4096, 16384]),
        max_pixels=st.sampled_from([16384, 65536]),
    ),
)
def test_a_models_own_limits_never_crash(height, width, config):
    if max(height, width) / min(height, width) <= 200:
        high, wide = model_size(height, width, config)
        assert high >= 32 and wide >= 32 and high % 32 == wide % 32 == 0


def test_a_3000x2000_image_becomes_5828_tokens():
    height, width = image_size(2000, 3000)
    assert height // 32 * (width // 32) == 5828


@pytest.mark.parametrize("size", [(1, 1), (10_000, 10), (10, 10_000), (0, 5), (1, 300)])
@pytest.mark.parametrize("function", [model_size, image_size, resize_steps])
def test_impossible_sizes_are_one_sentence(function, size):
    with pytest.raises(TempoError) as caught:
        function(*size)
    assert str(caught.value).count(". ") == 0 and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "limits",
    [
        {"fps": 0},
        {"fps": -1.0},
        {"fps": float("nan")},
        {"fps": "2"},
        {"min_frames": 0},
        {"max_frames": 0},
        {"max_frames": 8.5},
    ],
)
def test_bad_limits_are_one_sentence(limits):
    with pytest.raises(TempoError):
        sample_indices(100, 25.0, **limits)


def test_the_upper_limit_wins():
    assert len(sample_indices(100, 25.0, min_frames=9, max_frames=2)) == 2
    assert sample_indices(100.0, 25.0).dtype == np.int64


def test_slice_times_are_means_of_rounded_frame_times():
    """6.5 / 10 is just above 0.65, the mean of 0.6 and 0.7 just below: the published tag says 0.6."""
    assert time_tag(slice_seconds(0, 3, 10.0)) == "<0.6 seconds>"
