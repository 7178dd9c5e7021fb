"""Frames of a video sent one by one: as a list, and joined by commas as vLLM's clients do."""

import base64
import functools
import io
import tempfile

import pytest
from PIL import Image

from tempo_jax.serve.bodies import MOST_FILES
from tests.serving import wait_until
from tests.serving_http import PATIENCE, body, error_of, httpx, send, server


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where the server keeps uploads."""
    with pytest.MonkeyPatch.context() as patch:
        found = tmp_path_factory.mktemp("home")
        patch.setattr(tempfile, "tempdir", str(found))
        yield found


@pytest.fixture(scope="module")
def address(home):
    with server(inline_bytes=100_000) as (address, _):
        yield address


@pytest.fixture
def chat(address):
    return functools.partial(send, address + "/v1/chat/completions")


@functools.cache
def pictures(count, kind="JPEG", size=(64, 48)):
    found = []
    for shade in range(count):
        file = io.BytesIO()
        Image.new("RGB", size, (20 * shade,) * 3).save(file, kind)
        found.append(base64.b64encode(file.getvalue()).decode())
    return tuple(found)


def listed(values, **more):
    found = body()
    found["messages"][0]["content"][0] = {"type": "video", "video": values, **more}
    return found


def nothing_left(home):
    """Waits until only folders, locks and the socket of multiprocessing's server are there."""
    wait_until(
        lambda: not [p for p in home.rglob("*") if not (p.is_dir() or p.is_socket() or p.name == "lock")]
    )


def test_a_list_of_frames(chat):
    frames = [f"data:image/jpeg;base64,{text}" for text in pictures(12)]
    values = chat(json=listed(frames, fps=4.0)).json()
    assert values["tempo"]["usage"]["frames"] == 12, values


@pytest.mark.parametrize("kind,form", [("jpeg", "JPEG"), ("JPEG", "JPEG"), ("jpg", "JPEG"), ("png", "PNG")])
@pytest.mark.parametrize("count", [1, 4, 12])
def test_frames_joined_by_commas(chat, kind, form, count):
    uri = f"data:video/{kind};base64," + ",".join(pictures(count, form))
    reply = chat(json=body(uri, fps=2.0))
    assert reply.status_code == 200, reply.text
    assert reply.json()["tempo"]["usage"]["frames"] == count
    again = chat(json=body(uri, fps=2.0)).json()
    assert again["tempo"]["video_reused"]  # the same frames are the same video


@pytest.mark.parametrize("size", [1, 7, 100])
def test_commas_may_come_at_any_place_of_the_stream(chat, size):
    """Line breaks, URL-safe and unpadded as ever."""
    texts = [text.replace("+", "-").replace("/", "_").rstrip("=") + r"\n" for text in pictures(5)]
    uri = r"data:video\/jpeg;base64," + ",".join(texts)
    text = (
        '{"model": "fake", "messages": [{"role": "user", "content": [{"type": "video_url", "video_url": '
        f'{{"url": "{uri}"}}}}, {{"type": "text", "text": "What, and why?"}}]}}]}}'
    ).encode()

    def pieces():
        for start in range(0, len(text), size * 100):
            yield text[start : start + size * 100]

    reply = chat(content=pieces(), headers={"content-type": "application/json"})
    assert reply.status_code == 200, reply.text
    assert reply.json()["tempo"]["usage"]["frames"] == 5
    assert reply.json()["choices"][0]["message"]["content"] == "the frames says What, and why?"


@pytest.mark.parametrize(
    "text,status,said",
    [
        ("", 400, "base64"),
        (",", 400, "base64"),
        ("{0},", 400, "base64"),
        (",{0}", 400, "base64"),
        ("{0},!!", 400, "base64"),
        ("{0},A", 400, "base64"),
        ("aGVsbG8=", 400, "Frame 1 cannot be read"),
        ("{0},aGVsbG8=", 400, "Frame 2 cannot be read"),
        (",".join(["AAAA"] * (MOST_FILES + 1)), 400, f"more than {MOST_FILES}"),
        (",".join(["A" * 40_000] * 4), 413, "larger than"),
    ],
)
def test_frames_that_cannot_be(home, chat, text, status, said):
    error_of(chat(json=body("data:video/jpeg;base64," + text.format(*pictures(1)))), status, said)
    nothing_left(home)


def test_commas_are_only_for_frames(chat):
    error_of(chat(json=body("data:video/mp4;base64," + ",".join(pictures(2)))), 400, "base64")


def test_pictures_beyond_the_limits_are_refused():
    uri = "data:video/jpeg;base64," + ",".join(pictures(3, size=(200, 100)))
    with server(image_pixels=10_000, frame_pixels=10_000) as (address, _):
        reply = send(address + "/v1/chat/completions", json=body(uri))
    assert reply.status_code == 400 and "200x100" in reply.text, reply.text


def test_a_list_within_a_list_and_a_list_without_end(home, chat):
    joined = "data:video/jpeg;base64," + ",".join(pictures(2))
    error_of(chat(json=listed([joined, joined])), 400, "several images")
    error_of(chat(json=listed(["a"] * (MOST_FILES + 1))), 400, f"more than {MOST_FILES}")
    nothing_left(home)


def test_a_list_with_a_video_in_it(chat):
    mp4 = base64.b64encode(b"\0\0\0\x18ftypmp42").decode()
    frames = [f"data:image/jpeg;base64,{pictures(1)[0]}", f"data:video/mp4;base64,{mp4}"]
    error_of(chat(json=listed(frames)), 400, "Frame 2 cannot be read")


def test_uploads_may_be_frames(address):
    files = {"file": ("a.jpg", base64.b64decode(pictures(1)[0]))}
    with httpx.Client(base_url=address, timeout=PATIENCE) as client:
        identity = client.post("/v1/files", files=files).json()["id"]
        reply = client.post("/v1/chat/completions", json=listed([identity] * 6))
        assert reply.status_code == 200 and reply.json()["tempo"]["usage"]["frames"] == 6, reply.text
