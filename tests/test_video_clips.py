"""Parts of videos by their times: which frames, which times, and what is refused."""

import numpy as np
import pytest

from tempo_jax.errors import TempoError
from tempo_jax.video import open_video
from tempo_jax.video.synthetic import SyntheticVideo, encode, write_video
from tempo_jax.xcomp.layout import VIDEO_CONFIG, sample_indices


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """20 s at 10 frames per second, frame i of gray i."""
    path = tmp_path_factory.mktemp("clips") / "v.mp4"
    frames = (np.full((48, 64, 3), i, np.uint8) for i in range(200))
    encode(path, frames, 10, gop=20, options={"crf": "1"})
    return path


def grays(source):
    return [int(frame.mean().round()) for chunk in source.chunks(7) for frame in chunk]


@pytest.mark.parametrize(
    "clip, frames",
    [
        ((0, 20), 200), ((5, 10), 50), ((5.04, 10.09), 50), ((0.3, 0.6), 3), ((19.95, 30), 1), ((7, 7.01), 1),
        ((12, 1e6), 80),
    ],
)  # fmt: skip
def test_frames_lie_inside_and_times_begin_anew(clip, frames, video):
    source = open_video(video, clip=clip, fps=10, min_frames=1)
    first = int(clip[0] * 10 + 1e-6)
    assert source.indices.tolist() == list(range(first, first + frames))  # as released: int(start x fps)
    assert np.abs(np.array(grays(source)) - source.indices).max() <= 2
    assert source.total_frames == 200 and source.real_fps == 10
    assert source.duration_seconds == pytest.approx(frames / 10)
    assert source.seconds == pytest.approx(np.arange(frames) / 10)
    segment = source.segments()[0]
    assert segment.start_seconds == 0 and segment.tag_seconds == pytest.approx(0.4)


def test_a_clip_is_sampled_as_a_file_of_its_own_would_be(video, tmp_path):
    encode(tmp_path / "own.mp4", (np.full((48, 64, 3), i, np.uint8) for i in range(60, 140)), 10, gop=20)
    for options in (
        {"fps": 2.0},
        {"fps": 8.0, "sampler": sample_indices, "config": VIDEO_CONFIG, "min_frames": 16},
    ):
        part = open_video(video, clip=(6, 14), **options)
        own = open_video(tmp_path / "own.mp4", **options)
        assert (part.indices - 60).tolist() == own.indices.tolist()
        assert part.segments() == own.segments() and part.real_fps == own.real_fps


@pytest.mark.parametrize("sampling", ["time", "index"])
def test_a_varying_rate(sampling, tmp_path):
    """10 per second for 4 s, then 2 per second: a clip is cut by the frames' own times."""
    path = tmp_path / "v.gif"
    from PIL import Image

    pictures = [Image.fromarray(np.full((32, 32, 3), 4 * i, np.uint8)) for i in range(48)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100] * 40 + [500] * 8, loop=0)
    source = open_video(path, clip=(3, 6), fps=100, min_frames=1, max_frames=14, sampling=sampling)
    if sampling == "time":
        assert set(source.indices) <= set(range(30, 44)) and source.seconds[0] == 0
        assert source.seconds[-1] == pytest.approx(2.5) and source.duration_seconds == pytest.approx(3)
    else:
        assert source.indices.min() >= 18 and source.indices.max() < 36  # 6 per second on average


def test_arrays_and_folders_need_a_rate(tmp_path):
    array = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    source = open_video(array, clip=(1, 3), source_fps=10, fps=5, min_frames=1)
    assert (
        source.indices.min() == 10 and source.indices.max() == 29 and grays(source) == source.indices.tolist()
    )
    with pytest.raises(
        TempoError, match="A clip of the array is asked for, whose frames have no times: give"
    ):
        open_video(array, clip=(1, 3))


@pytest.mark.parametrize(
    "clip, sentence",
    [
        ((20, 25), r"The clip from 20 to 25 s lies outside v.mp4, which lasts 20.00 s: correct its times"),
        ((-1, 5), r"The clip is \(-1, 5\), but it must be"),
        ((5, 5), "but it must be"),
        ((6, 5), "but it must be"),
        ((float("nan"), 5), "but it must be"),
    ],
)
def test_what_is_no_clip_is_refused(clip, sentence, video):
    with pytest.raises(TempoError, match=sentence):
        open_video(video, clip=clip)


def test_an_image_has_no_clip(tmp_path):
    with pytest.raises(TempoError, match="is an image, of which no clip can be taken"):
        open_video(np.zeros((32, 32, 3), np.uint8), clip=(0, 1))


def test_a_damaged_part_outside_is_nothing_to_a_clip(tmp_path):
    write_video(tmp_path / "v.mp4", SyntheticVideo(seconds=8, fps=4, height=48, width=64), gop=4)
    source = open_video(tmp_path / "v.mp4", clip=(2, 4), fps=4)
    assert sum(len(chunk) for chunk in source.chunks(8)) == 8 and not source.warnings
