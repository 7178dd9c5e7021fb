"""What attacks on a server showed, as requests to `tempo serve`: refused, nothing read, nothing left."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import serving_http as http
from tests.serving import make_videos, serving_process, wait_until
from tests.serving_http import PATIENCE, error_of, httpx
from tests.test_serve_cli import FAKE

SECRET = "the text of a file that nobody may read"
GRADIO = (
    "/gradio_api/info",
    "/gradio_api/upload",
    "/config",
    "/queue/join",
    "/gradio_api/file=/etc/passwd",
    "/file=x",
)


@pytest.fixture(scope="module")
def places():
    """The served folder, a secret beside it, and where the server may leave things.

    In a folder of a short name: sockets of the server's processes are in it, and their names have a limit.
    """
    with tempfile.TemporaryDirectory(prefix="ta") as folder:
        yield _places(Path(folder))


def _places(home: Path) -> Path:
    for name in ("videos", "more", "tmp"):
        (home / name).mkdir()
    make_videos(home / "videos", 2)
    (home / "secret.mp4").write_text(SECRET)
    (home / "videos" / "link.mp4").symlink_to(home / "secret.mp4")
    (home / "videos" / "page.html").write_text(f"<script>{SECRET}</script>")
    (home / "videos" / "picture.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>")
    (home / "videos" / "named.mp4").write_text(f"<html>{SECRET}")
    (home / "videos" / "file-abc.mp4").write_bytes((home / "videos" / "v0.mp4").read_bytes())
    (home / "more" / "v0.mp4").write_bytes((home / "videos" / "v1.mp4").read_bytes())
    with contextlib.suppress(OSError):  # where names must be UTF-8
        Path(os.fsdecode(os.fsencode(home / "videos") + b"/\xff\xfe.mp4")).write_bytes(b"x")
    return home


@contextlib.contextmanager
def started(places, *more, tmp="tmp"):
    """(process, address, lines) of a server whose uploads are below places/tmp."""
    (places / tmp).mkdir(exist_ok=True)
    folders = ["--folder", str(places / "videos"), "--folder", str(places / "more")]
    with (
        temporary(places / tmp),
        serving_process("-c", FAKE, "serve", "--port", "0", *folders, *more) as found,
    ):
        yield found


@contextlib.contextmanager
def temporary(folder):
    """Programs started within leave their files there."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["TMPDIR"]
        if before is not None:
            os.environ["TMPDIR"] = before


@pytest.fixture(scope="module")
def address(places):
    with started(places, "--upload-mib", "4") as (_, address, _):
        yield address


def left(places, tmp="tmp"):
    """Files below the server's own folder, but for its lock."""
    return [path for path in (places / tmp).rglob("*") if path.is_file() and path.name != "lock"]


def chat(address, body, **more):
    return httpx.post(address + "/v1/chat/completions", json=body, timeout=PATIENCE, **more)


@pytest.mark.parametrize("path", GRADIO)
def test_no_route_but_our_own(address, path):
    for method in ("GET", "POST", "OPTIONS", "PUT", "BREW"):
        reply = httpx.request(method, address + path, timeout=PATIENCE)
        assert reply.status_code in (404, 405), (method, path)
        error_of(reply, reply.status_code, "at")
        assert "access-control-allow-origin" not in reply.headers


def test_no_file_but_the_librarys(address, places):
    secret = places / "secret.mp4"
    for name in (
        str(secret),
        secret.as_uri(),
        "../secret.mp4",
        "link.mp4",
        "/etc/passwd",
        "file:///etc/passwd",
    ):
        reply = chat(address, http.body(name))
        error_of(reply, 403, "have no file")
        assert SECRET not in reply.text
    for path in (
        "/api/videos/..%2f..%2fsecret.mp4/media",
        "/../secret.mp4",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
    ):
        reply = httpx.get(address + path, timeout=PATIENCE)
        assert reply.status_code == 404 and SECRET not in reply.text


def test_only_videos_and_pictures_are_served(address):
    videos = httpx.get(address + "/api/videos", timeout=PATIENCE).json()["videos"]
    names = {video["name"] for video in videos}
    assert {"videos/v0.mp4", "more/v0.mp4", "v1.mp4", "named.mp4"} <= names
    assert not {"page.html", "picture.svg", "link.mp4"} & names
    named = next(video for video in videos if video["name"] == "named.mp4")
    assert named["media_url"] is None
    reply = httpx.get(f"{address}/api/videos/{named['id']}/media", timeout=PATIENCE)
    error_of(reply, 404, "nothing that a browser can show")
    assert SECRET not in reply.text
    for video in videos:
        if video["media_url"]:
            headers = httpx.head(address + video["media_url"], timeout=PATIENCE).headers
            assert headers["content-type"].startswith(("video/", "image/"))
            assert (
                "sandbox" in headers["content-security-policy"]
                and headers["x-content-type-options"] == "nosniff"
            )


def test_a_name_in_two_folders_is_told_apart(address):
    error_of(chat(address, http.body("v0.mp4")), 400, "write videos/v0.mp4 or more/v0.mp4")
    text = chat(address, http.body("more/v0.mp4", "What?")).json()["choices"][0]["message"]["content"]
    assert text == "more/v0.mp4 says What?"


def test_a_file_that_is_called_like_an_upload(address):
    assert chat(address, http.body("file-abc.mp4")).status_code == 200


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/v.mp4", "https://example.org/v.mp4", "ftp://x/v", "rtsp://x/v"]
)
def test_nothing_is_fetched(address, url):
    error_of(chat(address, http.body(url)), 400, "fetches nothing")


@pytest.mark.parametrize("url", ["file://[", "file://[::1", "file://]", "file:"])
def test_addresses_that_are_none(address, url):
    reply = chat(address, http.body(url))
    error_of(reply, 403 if url == "file://]" and reply.status_code == 403 else 400, "")


FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:1"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_pages_of_other_sites_change_nothing(address, places, headers):
    data = {"file": ("a.mp4", b"x" * 1000)}
    for send in (
        lambda: httpx.post(address + "/v1/files", files=data, headers=headers),
        lambda: httpx.post(address + "/api/session", json={}, headers=headers),
        lambda: httpx.delete(address + "/api/session", headers=headers),
        lambda: httpx.post(address + "/api/clips", json={}, headers=headers),
        lambda: httpx.post(address + "/api/questions", json={}, headers=headers),
        lambda: chat(address, http.body("v1.mp4"), headers=headers),
    ):
        reply = send()
        error_of(reply, 403, "another site")
        assert "access-control-allow-origin" not in reply.headers and "set-cookie" not in reply.headers
    if "sec-fetch-site" in headers:
        error_of(httpx.get(address + "/api/videos", headers=headers), 403, "another site")
    assert left(places) == []


def test_links_from_other_sites_and_our_own_page_pass(address):
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert httpx.get(address + "/docs", headers=link).status_code == 200
    ours = {"sec-fetch-site": "same-origin", "origin": address}
    assert httpx.delete(address + "/api/session", headers=ours).status_code == 204


def test_an_allowed_origin(places):
    with started(places, "--allow-origin", "https://lab.example") as (_, address, _):
        headers = {"origin": "https://lab.example", "sec-fetch-site": "cross-site"}
        reply = chat(address, http.body("v1.mp4"), headers=headers)
        assert reply.status_code == 200
        assert reply.headers["access-control-allow-origin"] == "https://lab.example"
        asks = {
            **headers,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        }
        assert httpx.options(address + "/v1/chat/completions", headers=asks).status_code == 200
        error_of(
            chat(address, http.body("v1.mp4"), headers={"origin": "https://other.example"}), 403, "another"
        )


HUGE = 10**400


@pytest.mark.parametrize(
    "name", ["seed", "max_tokens", "temperature", "top_p", "budget", "fps", "max_frames"]
)
def test_numbers_of_any_size(address, name):
    for value in (HUGE, -HUGE, 1e308, float("1e999")):
        body = json.dumps(http.body("v1.mp4") | {name: value})
        headers = {"content-type": "application/json"}
        reply = httpx.post(address + "/v1/chat/completions", content=body, headers=headers, timeout=PATIENCE)
        error_of(reply, 400, "")


UNSUPPORTED = {
    "top_k": 5,
    "repetition_penalty": 1.2,
    "guided_json": {},
    "reasoning_effort": "high",
    "tool_choice": "required",
    "max_token": 5,
    "n": 2,
    "logprobs": True,
    "budgets": 3,
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_done_is_refused_by_name(address, name):
    error_of(chat(address, http.body("v1.mp4") | {name: UNSUPPORTED[name]}), 400, name)


@pytest.mark.parametrize("place", ["top", "tempo", "mm_processor_kwargs", "part", "url", "bare"])
def test_settings_are_honored_wherever_they_stand(address, place):
    body = http.body("v1.mp4")
    part = body["messages"][0]["content"][0]
    given = {"max_frames": 8, "budget": 70}
    if place == "top":
        body |= given
    elif place in ("tempo", "mm_processor_kwargs"):
        body[place] = given
    elif place == "part":
        part |= given
    elif place == "url":
        part["video_url"] |= given
    else:
        body["messages"][0]["content"][0] = {"type": "video", "video": "v1.mp4", **given}
    usage = chat(address, body).json()["tempo"]["usage"]
    assert (usage["frames"], usage["budget"]) == (8, 70)


@pytest.mark.parametrize(
    "place", ["tempo", "mm_processor_kwargs", "part", "url", "message", "stream_options", "text"]
)
def test_unknown_fields_at_any_depth(address, place):
    body = http.body("v1.mp4")
    content = body["messages"][0]["content"]
    target = {
        "part": content[0],
        "url": content[0]["video_url"],
        "message": body["messages"][0],
        "text": content[1],
    }
    target.get(place, body.setdefault(place, {}) if place not in target else None)["magic"] = 1
    error_of(chat(address, body), 400, "magic")


def forms(data):
    text = base64.b64encode(data).decode()
    return {
        "plain": text,
        "lines": "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
        "url-safe": text.replace("+", "-").replace("/", "_"),
        "unpadded": text.rstrip("="),
        "percent": text.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D"),
    }


@pytest.mark.parametrize("form", ["plain", "lines", "url-safe", "unpadded", "percent"])
def test_base64_of_every_common_form(address, places, form):
    data = (places / "videos" / "v1.mp4").read_bytes()
    reply = chat(address, http.body("data:video/mp4;base64," + forms(data)[form]))
    assert reply.status_code == 200 and reply.json()["tempo"]["usage"]["frames"] == 16, reply.text
    again = chat(address, http.body("data:video/mp4;base64," + forms(data)["plain"], stream=True))
    assert '"video_reused": true' in again.text
    wait_until(lambda: left(places) == [])


@pytest.mark.parametrize("text", ["", "!!!", "AAAAA", "AA=A", "A", "Ä", "AAAA====AAAA", "%4"])
def test_base64_that_is_none(address, text):
    error_of(chat(address, http.body("data:video/mp4;base64," + text)), 400, "base64")


def test_a_body_of_nothing_but_brackets(address):
    """40 MiB of it took a gigabyte and three seconds of the event loop."""
    body = b'{"model": "fake", "messages": [' + b"{}," * (14 << 20)
    headers = {"content-type": "application/json"}
    began = time.monotonic()
    with contextlib.suppress(httpx.WriteError):
        reply = httpx.post(address + "/v1/chat/completions", content=body, headers=headers, timeout=PATIENCE)
        error_of(reply, 413, "larger than 2 MiB")
    assert httpx.get(address + "/health", timeout=PATIENCE).status_code == 200
    assert time.monotonic() - began < PATIENCE
    for path in ("/api/questions", "/api/clips", "/api/session"):
        with contextlib.suppress(httpx.WriteError):
            error_of(
                httpx.post(address + path, content=body, headers=headers, timeout=PATIENCE), 413, "larger"
            )


def raw(address, data, patience=5.0):
    """What comes back on a connection of its own."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=patience) as sock:
        sock.sendall(data)
        got = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while part := sock.recv(1 << 16):
                got += part
    return got


def test_what_is_no_http_gets_our_error_format(address):
    for data in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET /\r\n\r\n" + b"x" * 100):
        head, _, body = raw(address, data).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400") and json.loads(body)["error"]["message"].endswith(".")


def test_uploads_that_are_broken_off_leave_nothing(address, places):
    head = (
        b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: 2000000\r\n\r\n--b\r\n"
        b'Content-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
    )
    host, port = address.removeprefix("http://").split(":")
    for size in (0, 1000, 1 << 20):
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(head + b"x" * size)
            time.sleep(0.05)
    body = json.dumps(http.body("data:video/mp4;base64,"))
    part = body[: body.index("base64,") + 7].encode()
    length = b"Content-Type: application/json\r\nContent-Length: 3000000\r\n\r\n"
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n" + length + part + b"AAAA" * (1 << 17)
        )
        time.sleep(0.2)
    reply = httpx.post(address + "/v1/files", files={"file": ("big.mp4", b"x" * (6 << 20))}, timeout=PATIENCE)
    error_of(reply, 413, "larger than")
    wait_until(lambda: left(places) == [])
    reply = httpx.post(
        address + "/v1/files", content=b"--b\r\n", headers={"content-type": "multipart/form-data; boundary=b"}
    )
    error_of(reply, 400, "multipart")


def test_clients_that_leave_and_bad_requests_are_not_logged(places):
    with started(places) as (process, address, lines):
        host, port = address.removeprefix("http://").split(":")
        for data in (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
            b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 99\r\n\r\n-",
            b"nonsense\r\n\r\n",
        ):
            for _ in range(5):
                with socket.create_connection((host, int(port))) as sock:
                    sock.sendall(data)
                    time.sleep(0.02)
        metrics = httpx.get(address + "/metrics").text
        assert 'status="500"' not in metrics
        process.send_signal(signal.SIGTERM)
        rest = "".join(lines)
        assert process.wait(60) == 0
    assert rest.strip() == "stopped", rest


def test_metrics_know_our_paths(address):
    httpx.get(address + "/v1/files")
    httpx.get(address + "/v1/files/file-made-up")
    httpx.get(address + "/made/up")
    text = httpx.get(address + "/metrics").text
    assert 'path="/v1/files/{identity}",status="404"' in text and "made" not in text


def test_an_npy_of_too_many_pixels(address):
    import io

    import numpy as np

    file = io.BytesIO()
    np.save(file, np.zeros((2000, 600, 3), np.uint8))
    small = httpx.post(
        address + "/v1/files", files={"file": ("a.npy", file.getvalue())}, timeout=PATIENCE
    ).json()
    assert chat(address, http.body(small["id"])).status_code == 200
    from tempo_jax.serve import decoder_child
    from tempo_jax.serve.limits import Limits

    class Image:
        kind, name, height, width, duration_seconds = "image", "a.npy", 9000, 9000, 0.0

    with pytest.raises(Exception, match="9000x9000 pixels"):
        decoder_child._check_opened(Image, Limits())


def test_what_a_killed_server_leaves_goes_at_the_next_start(places):
    with started(places, tmp="killed") as (process, address, _):
        data = (places / "videos" / "v1.mp4").read_bytes()
        assert httpx.post(address + "/v1/files", files={"file": ("a.mp4", data)}).status_code == 200
        (home,) = (places / "killed").iterdir()
        assert home.name == f"tempo-serve-{os.getuid()}" and home.stat().st_mode & 0o077 == 0
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(left(places, "killed")) == 1
        with started(places, tmp="killed"):
            assert left(places, "killed") == [] and len(list(home.iterdir())) == 1


def test_somebody_elses_folder_is_left_alone(tmp_path, monkeypatch):
    from tempo_jax.serve import uploads
    from tempo_jax.serve.limits import Limits

    monkeypatch.setattr(uploads.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"tempo-serve-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    made = uploads.Uploads(Limits())
    assert (
        not made.folder.is_relative_to(tmp_path / "elsewhere")
        and list((tmp_path / "elsewhere").iterdir()) == []
    )
    made.close()


def test_servers_that_start_and_end_at_once_do_not_meet(tmp_path, monkeypatch):
    from tempo_jax.serve import uploads
    from tempo_jax.serve.limits import Limits

    monkeypatch.setattr(uploads.tempfile, "tempdir", str(tmp_path))

    def start_and_end(_):
        for _ in range(30):
            made = uploads.Uploads(Limits())
            with made.new("a.mp4", most=9) as writing:
                writing.write(b"x")
            assert made.folder.is_dir()
            made.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start_and_end, range(4)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stays", [True, False])
def test_an_upload_whose_sender_left_at_its_last_byte_is_not_kept(tmp_path, monkeypatch, stays):
    from starlette.requests import ClientDisconnect, Request

    from tempo_jax.serve import uploads
    from tempo_jax.serve.bodies import receive_upload
    from tempo_jax.serve.limits import Limits
    from tempo_jax.serve.sessions import Identity, Owner

    monkeypatch.setattr(uploads.tempfile, "tempdir", str(tmp_path))
    made = uploads.Uploads(Limits())
    who = Identity("session", False, "here")
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\nvideo\r\n--x--\r\n'
    messages = [{"type": "http.request", "body": form}]
    messages += [] if stays else [{"type": "http.disconnect"}]

    async def receive():
        if not messages:
            await asyncio.sleep(60)
        return messages.pop(0)

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with contextlib.nullcontext() if stays else pytest.raises(ClientDisconnect):
        asyncio.run(receive_upload(request, made, Owner.of(who)))
    assert [item.name for item in made.items(who)] == ["a.mp4"] * stays
    assert len(list(made.folder.glob("*.mp4"))) == stays
    made.close()


STUCK = """
import sys, time
from tempo_jax import cli
from tempo_jax.serve import model
from tests import serving
class Stuck(serving.FakeClip):
    def _one(self, turn):
        turn.on_text("at last")
        time.sleep(300)
serving.FakeClip = Stuck
model.load = lambda checkpoint, name, dtype, sampling: serving.FakeModel()
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("signals,status", [(1, 0), (2, 130)])
def test_an_end_that_nothing_holds_up(places, signals, status):
    """An answer that does not stop computing, and a second Ctrl-C."""
    (places / "own").mkdir(exist_ok=True)
    arguments = [
        "serve",
        "--port",
        "0",
        "--folder",
        str(places / "videos"),
        "--grace",
        "1" if signals == 1 else "60",
    ]
    with (
        temporary(places / "own"),
        serving_process("-c", STUCK, *arguments) as (process, address, lines),
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(raw_stream, address)
        wait_until(lambda: httpx.get(address + "/health").json()["running"] == 1)
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        if signals == 2:
            wait_until(lambda: ends(address))  # else two signals may be one
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == status
        took = time.monotonic() - began
        rest = "".join(lines)
        asked.result()
    assert took < 60 and "Traceback" not in rest, rest
    assert list((places / "own").iterdir()) == []


def ends(address):
    """Whether the server takes no more requests."""
    try:
        return httpx.get(address + "/health").status_code == 503
    except httpx.HTTPError:
        return True


def raw_stream(address):
    with contextlib.suppress(httpx.HTTPError):
        chat(address, http.body("v1.mp4", stream=True))


def test_disk_full(places):
    """A file system of 8 MiB: what does not fit is refused and leaves nothing; what fits, fits."""
    small = places / "small"
    small.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        with temporary(small), serving_process("-c", FAKE, "serve", "--port", "0") as (_, address, _):
            fits = httpx.post(
                address + "/v1/files", files={"file": ("a.mp4", b"x" * (6 << 20))}, timeout=PATIENCE
            )
            assert fits.status_code == 200
            files = {"file": ("b.mp4", b"x" * (3 << 20))}
            error_of(
                httpx.post(address + "/v1/files", files=files, timeout=PATIENCE), 507, "disk space is full"
            )
            parts = (
                b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n',
                b"x" * (3 << 20),
            )
            headers = {"content-type": "multipart/form-data; boundary=b"}  # its length is not announced
            with contextlib.suppress(httpx.WriteError):
                reply = httpx.post(
                    address + "/v1/files", content=iter(parts), headers=headers, timeout=PATIENCE
                )
                error_of(reply, 507, "disk space is full")
            uri = "data:video/mp4;base64," + "A" * (4 << 20)
            error_of(chat(address, http.body(uri)), 507, "disk space is full")
            sizes = [
                path.stat().st_size for path in small.rglob("*") if path.is_file() and path.name != "lock"
            ]
            assert sizes == [6 << 20]
            assert httpx.get(address + "/health").status_code == 200
    finally:
        subprocess.run(["umount", "-l", small], check=False)
