"""Photos, animations, folders and arrays, what is refused by name, and the released behavior by option."""

import io
import json
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from tempo_jax.errors import TempoError
from tempo_jax.evaluation import annotations, subtitles
from tempo_jax.video import open_video
from tempo_jax.video.synthetic import SyntheticVideo, render, write_video

CLIP = SyntheticVideo(seconds=4, fps=10, height=48, width=64)


def read(source) -> np.ndarray:
    return np.concatenate(list(source.chunks(16)))


def sentence(video, **options) -> str:
    with pytest.raises(TempoError) as caught:
        read(open_video(video, **options))
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def corner() -> np.ndarray:
    """uint8 [32, 64, 3], dark with a white upper left quarter."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:16, :32] = 255
    return pixels


# --- photos


@pytest.mark.parametrize(
    ("tag", "shown"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.transpose(1, 0, 2)),
        (6, lambda p: np.rot90(p, -1)),
        (7, lambda p: p[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda p: np.rot90(p)),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_photos_are_turned_by_their_exif_orientation(tmp_path, tag, shown, suffix):
    path, exif = tmp_path / f"photo.{suffix}", Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(corner()).save(path, exif=exif, quality=95)
    source, stored = open_video(path), open_video(path, exif=False)
    upright = shown(corner())
    assert (source.kind, source.height, source.width) == ("image", *upright.shape[:2])
    np.testing.assert_allclose(read(source)[0].astype(int), upright, atol=40)
    np.testing.assert_allclose(read(stored)[0].astype(int), corner(), atol=40)


def test_folders_of_turned_photos(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(3):
        Image.fromarray(corner()).save(tmp_path / f"{number}.jpg", exif=exif)
    assert read(open_video(tmp_path)).shape == (3, 64, 32, 3)
    assert read(open_video(tmp_path, exif=False)).shape == (3, 32, 64, 3)


def test_heic_photos(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    encoded = pillow_heif.from_pillow(Image.fromarray(render(CLIP, 3)))
    encoded.save(tmp_path / "photo.heic", quality=95)
    source = open_video(tmp_path / "photo.heic")
    assert (source.kind, source.height, source.width, source.warnings) == ("image", 48, 64, [])
    assert np.abs(read(source)[0].astype(int) - render(CLIP, 3)).mean() < 6
    (tmp_path / "cut.heic").write_bytes((tmp_path / "photo.heic").read_bytes()[:-200])
    assert "damaged" in sentence(tmp_path / "cut.heic")


def test_a_photo_with_another_behind_it_is_a_photo(tmp_path):
    """Cameras append a thumbnail or a depth map."""
    with io.BytesIO() as file:
        Image.fromarray(render(CLIP, 0)).save(file, "jpeg")
        data = file.getvalue()
    (tmp_path / "depth.jpg").write_bytes(data + data)
    assert open_video(tmp_path / "depth.jpg").kind == "image"


# --- animations


@pytest.mark.parametrize("name", ["moves.webp", "moves.png", "moves.avif", "moves.gif"])
def test_animations_are_videos(tmp_path, name):
    pictures = [Image.fromarray(np.full((48, 64, 3), 25 * k, np.uint8)) for k in range(10)]
    still = pictures[3]
    if name.endswith("gif"):
        pictures = [picture.convert("L") for picture in pictures]
    try:
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=200)
    except (KeyError, OSError, ValueError) as error:
        pytest.skip(f"Pillow here cannot write {name} ({error})")
    source = open_video(tmp_path / name, fps=5.0)
    assert (source.kind, source.total_frames, source.warnings) == ("video", 10, [])
    assert source.duration_seconds == pytest.approx(2.0)
    np.testing.assert_allclose(read(source)[:, 24, 32, 0], 25 * np.arange(10), atol=6)
    still.save(tmp_path / f"still_{name}")
    assert open_video(tmp_path / f"still_{name}").kind == "image"


def test_an_animation_of_uneven_times(tmp_path):
    pictures = [Image.fromarray(np.full((48, 64, 3), 20 * k, np.uint8)) for k in range(10)]
    lengths = [100] * 5 + [1000] * 5
    pictures[0].save(
        tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=lengths, lossless=True
    )
    source = open_video(tmp_path / "a.webp")
    assert source.duration_seconds == pytest.approx(5.5)
    starts = np.concatenate([[0], np.cumsum(lengths[:-1])]) / 1000
    np.testing.assert_allclose(source.seconds, starts[source.indices])
    assert "unevenly spaced" in source.warnings[0]
    np.testing.assert_array_equal(read(source)[:, 0, 0, 0] // 20, source.indices)


def test_raw_motion_jpeg_is_a_video(tmp_path):
    data = b""
    for number in range(40):
        with io.BytesIO() as file:
            Image.fromarray(np.full((48, 64, 3), 6 * number, np.uint8)).save(file, "jpeg")
            data += file.getvalue()
    for name in ("film.mjpeg", "film.mjpg", "film.jpg", "film"):
        (tmp_path / name).write_bytes(data)
        source = open_video(tmp_path / name, fps=25.0)
        assert (source.kind, source.total_frames) == ("video", 40)
        np.testing.assert_allclose(read(source)[:, 0, 0, 0], 6 * np.arange(40), atol=2)


# --- folders and arrays


def test_frame_names_with_decimals(tmp_path):
    names = ["t0.25.png", "t0.5.png", "t0.75.png", "t1.0.png", "t1.25.png", "t10.0.png"]
    for level, name in enumerate(names):
        Image.new("RGB", (32, 32), (level, 0, 0)).save(tmp_path / name)
    assert read(open_video(tmp_path))[:, 0, 0, 0].tolist() == list(range(6))


def test_source_fps_is_apart_from_fps(tmp_path):
    frames = np.stack([np.full((32, 32, 3), k, np.uint8) for k in range(60)])
    np.save(tmp_path / "clip.npy", frames)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, pixels in enumerate(frames):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    for video in (frames, tmp_path / "clip.npy", folder):
        source = open_video(video, source_fps=30.0)
        assert (source.num_frames, source.native_fps, source.duration_seconds) == (4, 30.0, 2.0)
        assert read(source)[:, 0, 0, 0].tolist() == source.indices.tolist() == [0, 20, 39, 59]
        assert source.warnings == []
        assumed = open_video(video, fps=1.0)
        assert (assumed.num_frames, assumed.duration_seconds) == (60, 60.0)
        said = any("recorded at 1 per second" in w and "--source-fps" in w for w in assumed.warnings)
        assert said == (video is not frames)
    assert "source_fps" in sentence(frames, source_fps=0.0)


def test_byte_order_marks(tmp_path):
    """In every JSON that users give: records, cases, annotations, subtitles."""
    from tempo_jax.cli.batch import _read_cases
    from tempo_jax.data.readers import json_files

    def write(name: str, value) -> str:
        (tmp_path / name).write_text(json.dumps(value), encoding="utf-8-sig")
        return tmp_path / name

    record = {"id": "a", "conversations": []}
    assert [entry.content for entry in json_files.read(write("a.json", [record]))] == [record]
    (line,) = json_files.read(write("a.jsonl", record))
    assert json.loads(line.content) == record
    case = {"video_path": "a.mp4", "query": "What?"}
    assert _read_cases(write("cases.json", [case])) == [case]
    assert annotations._rows(write("questions.json", [case])) == [case]
    assert annotations._rows(write("questions.jsonl", case)) == [case]
    spoken = [{"line": "hello", "start": "00:00:01.000", "end": "00:00:02.000"}]
    assert subtitles.lines(write("subtitles.json", spoken), 0.0, 4.0) == ["hello"]


# --- what is displayed, and the released behavior


def test_pixels_that_are_not_square(tmp_path):
    path = tmp_path / "anamorphic.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(render(CLIP, number), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert (open_video(path).height, open_video(path).width) == (48, 91)
    assert read(open_video(path)).shape[1:] == (48, 91, 3)
    stored = open_video(path, square_pixels=False)
    with av.open(str(path)) as container:
        every = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    np.testing.assert_array_equal(read(stored), every[stored.indices])


def test_options_are_checked(tmp_path):
    write_video(tmp_path / "a.mp4", CLIP)
    assert "choose from time, index" in sentence(tmp_path / "a.mp4", sampling="even")
    with pytest.raises(TypeError, match="sampled"):
        open_video(tmp_path / "a.mp4", sampled="time")


# --- refusals


def box(kind: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return struct.pack(">I4s", len(data) + 8, kind) + data


def renamed_entry(data: bytes, entry: bytes) -> bytes:
    """The film with another name of its codec, as encryption and unknown codecs have."""
    return data.replace(b"avc1", entry, 2).replace(b"isomiso2" + entry, b"isomiso2avc1")


def test_each_reason_has_its_sentence(tmp_path):
    def write(name: str, data: bytes):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    write_video(tmp_path / "a.mp4", CLIP, faststart=True)
    whole = (tmp_path / "a.mp4").read_bytes()
    assert "encrypted" in sentence(write("drm.mp4", renamed_entry(whole, b"encv")))
    assert "cannot be decoded here (zzzz)" in sentence(write("odd.mp4", renamed_entry(whole, b"zzzz")))
    assert "is not an image despite its name" in sentence(write("text.jpg", b"dear diary\n" * 40))
    assert "moov" in sentence(write("cut.mp4", whole[:32] + box(b"mdat", bytes(900))))

    path = tmp_path / "fragments.mp4"
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    with av.open(str(path), "w", options=flags) as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(render(CLIP, number), format="rgb24")))
        output.mux(stream.encode(None))
    data = path.read_bytes()
    first = data.index(b"moof") - 4
    assert "init segment" in sentence(write("init.mp4", data[:first]))
    assert "without its beginning" in sentence(write("segment.m4s", data[first:]))


def test_an_image_in_a_video_name_and_back(tmp_path):
    Image.fromarray(corner()).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "photo.mp4")
    assert open_video(tmp_path / "photo.mp4").kind == "image"
    write_video(tmp_path / "a.mp4", CLIP)
    (tmp_path / "a.mp4").rename(tmp_path / "film.jpg")
    assert open_video(tmp_path / "film.jpg").kind == "video"


def test_a_server_samples_as_it_was_told(tmp_path):
    """The decoding process hands on the frames' own times."""
    from tempo_jax.models.config import VideoConfig
    from tempo_jax.serve.decoder import decoding
    from tempo_jax.serve.decoder_child import Request
    from tempo_jax.serve.limits import Limits
    from tempo_jax.serve.opening import spans

    pictures = [Image.fromarray(np.full((48, 64, 3), 20 * k, np.uint8)) for k in range(10)]
    path, lengths = tmp_path / "a.webp", [100] * 5 + [1000] * 5
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=lengths, lossless=True)
    for sampling, end in (("time", 5.0), ("index", 5.5)):
        frames = {"fps": 2.0, "min_frames": 4, "max_frames": 64, "sampling": sampling}
        request = Request(str(path), "a.webp", frames, VideoConfig(), Limits())
        here = open_video(path, **frames)
        with decoding(request, lambda: False) as source:
            pixels = read(source)
            np.testing.assert_array_equal(pixels, read(here))
            np.testing.assert_array_equal(source.seconds, here.seconds)
            assert spans(source, 8) == [(s.start_seconds, s.end_seconds) for s in here.segments(8)]
            assert (source.own_times, source.warnings) == (sampling == "time", here.warnings)
        assert abs(here.segments(8)[-1].end_seconds - end) < 0.6
