"""open_video: exact frames, streaming, every accepted form, every mistake, damaged files."""

import gc
import io
import os
import pickle
import re
import subprocess
import sys
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tempo_jax.errors import TempoError
from tempo_jax.video import open_video
from tempo_jax.video.synthetic import SyntheticVideo, render, write_video

REPO = Path(__file__).parent.parent
CLIP = SyntheticVideo(seconds=12, fps=20, height=48, width=64, noise=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Videos shared by the tests of this file."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "plain.mp4", CLIP)
    write_video(folder / "front.mp4", CLIP, faststart=True)
    write_video(folder / "plain.mkv", CLIP)
    write_video(folder / "plain.ts", CLIP)
    return folder


def sequential(path: Path) -> np.ndarray:
    """Every frame by plain PyAV: uint8 [T, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def read(source, size: int = 16) -> np.ndarray:
    return np.concatenate(list(source.chunks(size)))


def sentence(video, **limits) -> str:
    """The message of the TempoError that opening and reading must end in."""
    with pytest.raises(TempoError) as caught:
        read(open_video(video, **limits))
    message = str(caught.value)
    assert "\n" not in message and message.endswith((".", "?"))
    return message


# --- exact frames


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv", "avi", "h264"])
@pytest.mark.parametrize(("gop", "b_frames"), [(12, 0), (25, 3), (240, 2)])
def test_frames_equal_a_sequential_decode(tmp_path, suffix, gop, b_frames):
    """Seeks (short GOPs, few frames), skipped B-frames, decoding by count (avi, h264)."""
    path = tmp_path / f"clip.{suffix}"
    write_video(
        path, SyntheticVideo(seconds=10, fps=20, height=48, width=64, noise=6), gop=gop, b_frames=b_frames
    )
    every = sequential(path)
    for limits in ({}, {"fps": 0.3, "min_frames": 3}, {"fps": 7.0}, {"min_frames": 250}):
        source = open_video(path, **limits)
        assert source.total_frames == 200 and source.native_fps == pytest.approx(20, rel=1e-3)
        np.testing.assert_array_equal(read(source), every[source.indices])
        assert source.warnings == []


@pytest.mark.parametrize(
    ("codec", "suffix", "pixels"),
    [
        ("mpeg4", "avi", "yuv420p"),
        ("mpeg2video", "mpg", "yuv420p"),
        ("libvpx-vp9", "webm", "yuva420p"),
        ("libvpx", "webm", "yuv420p"),
        ("libx264", "mp4", "yuv420p10le"),
        ("libx264", "mkv", "gray"),
        ("libx264", "mp4", "yuv444p"),  # with odd sides
        ("mjpeg", "mov", "yuvj420p"),
        ("ffv1", "mkv", "bgra"),
    ],
)
def test_codecs_and_pixel_formats(tmp_path, codec, suffix, pixels):
    path = tmp_path / f"clip.{suffix}"
    size = (47, 65) if pixels == "yuv444p" else (48, 64)
    clip = SyntheticVideo(seconds=2, fps=25, height=size[0], width=size[1])
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, pixels
        for i in range(clip.num_frames):
            frame = av.VideoFrame.from_ndarray(render(clip, i), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    every = sequential(path)
    source = open_video(path, fps=5.0)
    assert (source.height, source.width, source.total_frames) == (*size, 50)
    np.testing.assert_array_equal(read(source), every[source.indices])


@lru_cache(maxsize=1)
def _chunked(path: str) -> tuple:
    source = open_video(path, fps=3.0)
    return source, read(source, 1000)


@settings(deadline=None, max_examples=12)
@given(size=st.integers(1, 50))
def test_chunks_of_any_size_hold_the_same_frames(folder, size):
    source, whole = _chunked(str(folder / "plain.mp4"))
    chunks = list(source.chunks(size))
    assert [len(c) for c in chunks[:-1]] == [size] * (len(chunks) - 1)
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_rotation_is_applied(tmp_path):
    for name, angle in (("plain", 0), ("turned", 90), ("over", 180)):
        write_video(tmp_path / f"{name}.mp4", SyntheticVideo(seconds=2, height=48, width=80), rotation=angle)
    plain, turned, over = (open_video(tmp_path / f"{n}.mp4") for n in ("plain", "turned", "over"))
    assert (turned.height, turned.width) == (80, 48)
    np.testing.assert_array_equal(read(turned), np.rot90(read(plain), axes=(1, 2)))
    np.testing.assert_array_equal(read(over), read(plain)[:, ::-1, ::-1])


def test_variable_frame_rate_uses_the_average_and_says_so(tmp_path):
    path = tmp_path / "uneven.mp4"
    times = [*range(0, 40), *range(40, 400, 10)]  # in 1/20 s: 20 fps, then 2 fps
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=20)
        stream.width, stream.height = 64, 48
        stream.codec_context.time_base = Fraction(1, 20)
        for time in times:
            frame = av.VideoFrame.from_ndarray(render(CLIP, time), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 20)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    source = open_video(path)
    assert source.duration_seconds == pytest.approx(20, rel=0.05)
    assert source.native_fps == pytest.approx(len(times) / 20, rel=0.05)
    assert any("unevenly spaced" in w for w in source.warnings)
    np.testing.assert_array_equal(read(source), sequential(path)[source.indices])


def test_a_size_that_changes_midway_is_scaled_to_the_first(tmp_path):
    streams = []
    for height, width in ((48, 64), (64, 96)):
        path = tmp_path / f"{height}.ts"
        write_video(path, SyntheticVideo(seconds=3, height=height, width=width), container="mpegts")
        streams.append(path.read_bytes())
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(streams))
    source = open_video(path, fps=5.0)
    assert (source.height, source.width) == (48, 64)
    assert read(source).shape == (source.num_frames, 48, 64, 3)


# --- streaming


def test_readers_close_their_file(folder):
    source = open_video(folder / "plain.mp4")

    def open_files() -> int:
        return sum("plain.mp4" in os.readlink(f) for f in Path("/proc/self/fd").iterdir() if f.is_symlink())

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    chunks = source.chunks(4)
    next(chunks)
    assert open_files() == 1
    chunks.close()
    gc.collect()
    assert open_files() == 0
    read(source)
    assert open_files() == 0


PEAK = r"""
import re, sys
from tempo_jax.video import open_video
frames = sum(len(c) for c in open_video(sys.argv[1], fps=5.0, max_frames=5000).chunks(16))
# Not getrusage: its peak includes the parent's memory from before exec.
print(frames, re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from /proc")
def test_memory_does_not_grow_with_length(tmp_path):
    peaks = []
    for seconds in (60, 900):
        path = tmp_path / f"{seconds}.mp4"
        write_video(path, SyntheticVideo(seconds=seconds, fps=5, height=96, width=128), preset="ultrafast")
        run = [sys.executable, "-c", PEAK, str(path)]
        output = subprocess.run(run, capture_output=True, text=True, check=True, cwd=REPO).stdout.split()
        assert int(output[0]) == seconds * 5
        peaks.append(int(output[1]) / 1024)
    # All 4500 frames of the long one would be 158 MiB.
    assert peaks[1] - peaks[0] < 20


# --- arrays, images, folders


def test_arrays_are_taken_as_recorded_at_fps(tmp_path):
    array = np.stack([render(CLIP, i) for i in range(40)])
    np.save(tmp_path / "clip.npy", array)
    for video in (array, tmp_path / "clip.npy"):
        source = open_video(video, fps=2.0)
        assert (source.kind, source.num_frames, source.real_fps, source.duration_seconds) == (
            "video",
            40,
            2,
            20,
        )
        np.testing.assert_array_equal(read(source), array)
        assert open_video(video, fps=1.73).real_fps == 1.73
        thinned = open_video(video, max_frames=8)
        assert thinned.num_frames == 8 and thinned.real_fps == pytest.approx(0.4)
        np.testing.assert_array_equal(read(thinned), array[thinned.indices])
    assert open_video(array[:2]).num_frames == 2  # min_frames is for sampling


def test_images_of_all_kinds(tmp_path):
    rgb = render(CLIP, 3)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    Image.fromarray(rgb).convert("L").save(tmp_path / "grey.png")
    Image.fromarray(rgb).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(rgb).save(tmp_path / "one.gif")
    Image.fromarray(rgb[:, :, 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    (tmp_path / "nosuffix").write_bytes((tmp_path / "a.png").read_bytes())
    for file in tmp_path.iterdir():
        source = open_video(file)
        assert (source.kind, source.num_frames, source.duration_seconds) == ("image", 1, 0.0)
        assert read(source).shape == (1, 48, 64, 3)
    for video in (tmp_path / "a.png", tmp_path / "nosuffix", rgb, Image.fromarray(rgb)):
        np.testing.assert_array_equal(read(open_video(video))[0], rgb)
    np.testing.assert_array_equal(read(open_video(tmp_path / "deep.png"))[0, :, :, 0], rgb[:, :, 0])


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert read(open_video(clear)).min() == 255


def test_gifs_are_videos(tmp_path):
    frames = [Image.fromarray(render(SyntheticVideo(seed=1), i * 5)) for i in range(12)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=250)
    source = open_video(tmp_path / "a.gif")
    assert (source.kind, source.total_frames, source.native_fps, source.num_frames) == ("video", 12, 4.0, 6)
    assert np.abs(read(source)[0].astype(int) - np.asarray(frames[0])).mean() < 10


def test_folders_sort_naturally(tmp_path):
    for i in (1, 2, 10, 9):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("x")
    source = open_video(tmp_path, fps=1.0)
    assert (source.kind, source.real_fps) == ("video", 1.0)
    assert read(source)[:, 0, 0, 0].tolist() == [1, 2, 9, 10]
    Image.new("RGB", (32, 30)).save(tmp_path / "frame11.png")
    assert "frame11.png" in sentence(tmp_path)


# --- damage


def cut(path: Path, share: float) -> Path:
    """A copy of the first part of a file."""
    copy = path.with_name(f"cut_{path.name}")
    data = path.read_bytes()
    copy.write_bytes(data[: int(len(data) * share)])
    return copy


@pytest.mark.parametrize("name", ["front.mp4", "plain.mkv"])
def test_truncated_files_answer_from_what_is_there(folder, name):
    source = open_video(cut(folder / name, 0.6))
    assert 0.4 < source.duration_seconds / 12 < 0.75
    missing = re.search(r"([\d.]+) of its 12.0 seconds are missing", source.warnings[0])
    assert float(missing[1]) == pytest.approx(12 - source.total_frames / 20, abs=0.2)
    frames = read(source)
    whole = sequential(folder / name)[source.indices]
    np.testing.assert_array_equal(frames[:-1], whole[:-1])


def test_a_truncated_transport_stream_has_no_duration_to_miss(folder):
    source = open_video(cut(folder / "plain.ts", 0.6))
    assert 0.4 < source.duration_seconds / 12 < 0.75
    assert len(read(source)) == source.num_frames


@pytest.mark.parametrize("name", ["front.mp4", "plain.mkv", "plain.ts"])
def test_damaged_stretches_are_bridged(folder, name):
    data = bytearray((folder / name).read_bytes())
    middle = len(data) // 2
    hole = len(data) // 20
    data[middle : middle + hole] = np.random.RandomState(0).bytes(hole)
    path = folder / f"damaged_{name}"
    path.write_bytes(data)
    source = open_video(path, fps=20.0)
    frames = read(source)
    assert len(frames) == source.num_frames
    whole = sequential(folder / name)
    assert source.total_frames > 120  # Matroska loses all up to its next cluster
    np.testing.assert_array_equal(frames[0], whole[0])
    np.testing.assert_array_equal(frames[-1], whole[-1])
    if name == "front.mp4":
        assert any("damaged" in w for w in source.warnings)


# --- mistakes


def test_files_that_are_no_videos(tmp_path, folder):
    def write(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    (tmp_path / "empty").mkdir()
    assert "does not exist" in sentence(tmp_path / "none.mp4")
    assert "no images" in sentence(tmp_path / "empty")
    assert "0 bytes" in sentence(write("zero.mp4", b""))
    assert "moov" in sentence(cut(folder / "plain.mp4", 0.6))
    assert "cannot be read" in sentence(write("noise.mp4", np.random.RandomState(0).bytes(5000)))
    assert "text" in sentence(write("notes.txt", b"hello\n" * 100))
    assert "cannot be read" in sentence(write("code.py", b"import os\n" * 100))
    assert "damaged" in sentence(write("cut.png", _png()[:-400]))
    assert sentence(write("fake.jpg", b"not a picture"))
    assert "web address" in sentence("https://example.org/a.mp4")
    assert "give its path alone" in sentence("file:///videos/a.mp4")
    assert sentence("nul\0byte.mp4")
    assert sentence("x" * 5000)


def _png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(render(SyntheticVideo(noise=20), 0)).save(stream, "png")
    return stream.getvalue()


def test_audio_alone(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=8000, layout="mono")
        for i in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.rate, frame.pts = 8000, i * 1024
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert "sound but no video" in sentence(path)


def test_bad_arrays(tmp_path):
    good = np.zeros((4, 32, 32, 3), np.uint8)
    assert "shape" in sentence(good[..., :2])
    assert "shape" in sentence(good[None])
    assert "uint8" in sentence(good.astype(np.float32))
    assert "empty" in sentence(good[:0])
    assert "too small" in sentence(good[:, :1, :1])
    assert "aspect ratio" in sentence(np.zeros((2, 10_000, 10, 3), np.uint8))
    assert "list" in sentence([1, 2])

    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert ".npy" in sentence(tmp_path / "objects.npy")
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps({"a": 1}))
    assert ".npy" in sentence(tmp_path / "pickle.npy")
    np.save(tmp_path / "cut.npy", good)
    assert ".npy" in sentence(cut(tmp_path / "cut.npy", 0.5))
    np.savez(tmp_path / "many.npz", good)
    (tmp_path / "many.npz").rename(tmp_path / "many.npy")
    assert "archive" in sentence(tmp_path / "many.npy")


def test_bad_frame_sizes_in_files(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    assert "too small" in sentence(tmp_path / "dot.png")
    path = tmp_path / "thin.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 10_000, 10, "bgra"
        frame = av.VideoFrame.from_ndarray(np.zeros((10, 10_000, 3), np.uint8), format="rgb24")
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert "aspect ratio" in sentence(path)


@pytest.mark.parametrize("limits", [{"fps": 0}, {"fps": -2.0}, {"min_frames": 0}])
def test_bad_limits(folder, limits):
    sentence(folder / "plain.mp4", **limits)
