"""Requests that no client of ours would make, byte by byte against the real server with the page on."""

import json
import re
import socket

import pytest

from tempo_jax.serve.app import Access
from tempo_jax.serve.pages import UI
from tests import serving_http as http
from tests.serving_http import PATIENCE, error_of, get, httpx, send, server

folder = http.folder
TOKEN = "a-secret-token"
HALF = "\\ud800"  # of a character, as JSON can have it


@pytest.fixture(scope="module")
def address(folder):
    with server([folder], access=Access(hosts=("localhost", "127.0.0.1")), page=UI) as (address, _):
        yield address


@pytest.fixture(scope="module")
def guarded(folder):
    with server([folder], access=Access(token=TOKEN), page=UI) as (address, _):
        yield address


def raw(address, data):
    """(status, headers in lower case, body) of what comes back until the server closes; status 0: nothing."""
    host, port = address.removeprefix("http://").split(":")
    got = b""
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
        sock.sendall(data)
        try:
            while piece := sock.recv(1 << 16):
                got += piece
        except ConnectionError:
            pass
    head, _, body = got.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    body = body[: int(length[1])] if length else body  # a second response may follow
    return int(head.split(b" ")[1]) if head else 0, head.lower(), body


def asked(first, *headers, body=b""):
    """A request: its first line without HTTP's version, headers after Host, and a body of JSON."""
    kind = (b"Content-Type: application/json",) if body else ()
    lines = (first + b" HTTP/1.1", b"Host: localhost", b"Connection: close", *kind, *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def posted(path, body=b"{}", *headers):
    return asked(b"POST " + path, b"Content-Length: %d" % len(body), *headers, body=body)


CLIPS = b"POST /api/clips"
REQUESTS = {
    "HTTP/1.0": (b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n", 200),
    "HTTP/1.0 without a host": (b"GET /health HTTP/1.0\r\n\r\n", 421),
    "HTTP/0.9": (b"GET /health\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 421),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300) + b"\r\n\r\n", 400),
    "two hosts": (asked(b"GET /health", b"Host: evil"), 400),
    "a user in the host": (asked(b"GET /health").replace(b": localhost", b": a@localhost"), 421),
    "HEAD": (asked(b"HEAD /health"), 200),
    "HEAD of what is posted": (asked(b"HEAD /v1/chat/completions"), 405),
    "OPTIONS *": (asked(b"OPTIONS *"), 404),
    "OPTIONS": (asked(b"OPTIONS /v1/chat/completions", b"Origin: http://evil.example"), 405),
    "TRACE": (asked(b"TRACE /"), 405),
    "a path upwards": (asked(b"GET /../../etc/passwd"), 404),
    "encoded": (asked(b"GET /%2e%2e/%2e%2e/etc/passwd"), 404),
    "below a folder": (asked(b"GET /js/..%2f..%2fapi.py"), 404),
    "bytes that are no text": (asked(b"GET /%ff%fe"), 404),
    "an id with a 0": (asked(b"GET /api/videos/%00"), 404),
    "a line end in an id": (asked(b"GET /api/videos/x%0d%0aSet-Cookie:a=b"), 404),
    "a query that is no text": (asked(b"GET /api/videos?query=%ff"), 200),
    "a huge number": (asked(b"GET /api/videos?limit=" + b"9" * 400), 400),
    "a huge header": (asked(b"GET /", b"X: " + b"a" * 200_000), (0, 400, 431)),
    "a cookie that is none": (asked(b"GET /api/session", b'Cookie: tempo_session="\\377\xff"; =;;'), 200),
    "bytes in a token": (asked(b"GET /api/session", b"Authorization: Bearer \xff\xe9"), 200),
    "two lengths": (asked(CLIPS, b"Content-Length: 4", b"Content-Length: 5", body=b"{}  "), 400),
    "a negative length": (asked(CLIPS, b"Content-Length: -4", body=b"{}"), 400),
    "a huge length": (asked(CLIPS, b"Content-Length: " + b"9" * 40, body=b"{}"), (400, 413)),
    "chunks that are none": (asked(CLIPS, b"Transfer-Encoding: chunked", body=b"zz\r\n{}\r\n"), 400),
    "UTF-16": (posted(b"/api/clips", b"\xff\xfe{\0}\0"), 400),
    "half characters as bytes": (posted(b"/api/clips", b'{"video":"\xed\xa0\x80"}'), 400),
    "an origin of null": (posted(b"/api/session", b"{}", b"Origin: null"), 403),
    "another port's page": (posted(b"/api/session", b"{}", b"Origin: http://localhost:1"), 403),
    "another site's picture": (
        asked(b"GET /api/videos", b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Mode: no-cors"),
        403,
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_asked_byte_by_byte(address, name):
    data, expected = REQUESTS[name]
    status, head, body = raw(address, data)
    assert status in (expected if isinstance(expected, tuple) else (expected,)), (head, body)
    assert b"access-control" not in head and b"set-cookie: a=b" not in head
    if data.startswith(b"HEAD"):
        assert body == b""
    elif status >= 400:
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    assert get(address + "/health").status_code == 200


def test_a_websocket_is_no_way_in(address):
    """The request is answered as any other, never upgraded."""
    upgrade = (
        b"Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    status, head, _ = raw(address, b"GET /api/clips HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\r\n")
    assert status in (200, 400) and b"upgrade" not in head


def test_a_request_within_a_body_is_not_answered(address):
    """Both a length and chunks: who is in front of the server may have read it otherwise."""
    both = (b"Content-Length: 4", b"Transfer-Encoding: chunked")
    inner = b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    status, _, body = raw(address, asked(CLIPS, *both, body=inner))
    assert status in (400, 404) and b"tempo_requests" not in body


RANGES = {
    "bytes=0-0": (206, 1),
    "bytes=-1": (206, 1),
    "bytes= 0 - 3": (206, 4),
    "bytes=-999999999999": ((200, 206), None),
    "bytes=-0": (416, None),
    "bytes=999999999-": (416, None),
    "bytes=5-2": (200, None),
    "bytes=0-0,5-6": (200, None),
    "bytes=a-b": (200, None),
    "lines=1-2": (200, None),
    "bytes=0-" + "9" * 400: ((200, 206), None),
    "bytes=" + "0-1," * 2000: (200, None),
}


@pytest.mark.parametrize("asked", RANGES, ids=lambda text: text[:20])
def test_ranges(address, folder, asked):
    expected, size = RANGES[asked]
    video = get(address + "/api/videos?query=v0.mp4").json()["videos"][0]
    reply = get(address + video["media_url"], headers={"range": asked})
    assert reply.status_code in (expected if isinstance(expected, tuple) else (expected,)), reply.headers
    if size:
        assert len(reply.content) == size
    elif reply.status_code < 400:
        assert reply.content == (folder / "v0.mp4").read_bytes()
    head = httpx.head(address + video["media_url"], timeout=PATIENCE)
    assert head.status_code == 200 and head.content == b""
    assert int(head.headers["content-length"]) == (folder / "v0.mp4").stat().st_size


# Half characters and line ends in what clients name: told, on one line, as text.
NAMES = {
    "a setting": ("/api/questions", '{"video": "VIDEO", "question": "q", "settings": {"HALF": 1}}', 400),
    "a field": ("/api/clips", '{"HALF\\n\\u0007": 1}', 400),
    "a field of a chat": ("/v1/chat/completions", '{"model": "fake", "messages": [], "HALF\\r\\n": 1}', 400),
    "a field of a part": (
        "/v1/chat/completions",
        '{"model": "fake", "messages": [{"role": "user", "content": [{"type": "text", "text": "a", '
        '"HALF": 1}]}]}',
        400,
    ),
    "a model": ("/v1/chat/completions", '{"model": "HALF"}', 404),
    "a video": ("/api/clips", '{"video": "HALF\\n"}', 404),
    "a question": ("/api/questions", '{"video": "VIDEO", "question": "why HALF?"}', 200),
    "a history": (
        "/api/questions",
        '{"video": "VIDEO", "question": "q", "history": [{"role": "user", "content": "HALF"}]}',
        200,
    ),
    "a path": (
        "/v1/chat/completions",
        '{"model": "fake", "messages": [{"role": "user", "content": [{"type": "video_url", "video_url": '
        '{"url": "HALF.mp4"}}, {"type": "text", "text": "a"}]}]}',
        403,
    ),
    "a token": ("/api/session", '{"token": "HALF"}', 200),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_no_text(address, name):
    path, text, status = NAMES[name]
    video = get(address + "/api/videos").json()["videos"][0]["id"]
    content = text.replace("HALF", HALF).replace("VIDEO", video).encode()
    reply = send(address + path, content=content, headers={"content-type": "application/json"})
    if status >= 400:
        error_of(reply, status, "")
    else:
        assert reply.status_code == status and "event: error" not in reply.text, reply.text


def test_a_token_that_is_no_text(guarded):
    content = f'{{"token": "{HALF}"}}'.encode()
    headers = {"content-type": "application/json"}
    error_of(send(guarded + "/api/session", content=content, headers=headers), 401, "not the server's token")
    assert get(guarded + "/?token=%ed%a0%80").status_code == 200  # the page, without a session
    error_of(get(guarded + "/api/videos?token=%ed%a0%80"), 401, "bearer token")


def test_a_session_that_has_signed_out_is_over(guarded):
    with httpx.Client(base_url=guarded, timeout=PATIENCE) as client:
        client.post("/api/session", json={"token": TOKEN})
        kept = dict(client.cookies)
        assert client.get("/api/videos").status_code == 200
        assert client.delete("/api/session").status_code == 204
    error_of(get(guarded + "/api/videos", cookies=kept), 401, "bearer token")


def test_nobody_is_given_a_session_that_another_has_chosen(guarded):
    """Neither one that is not signed nor, on signing in, the one that was there before."""
    chosen = {"tempo_session": "a" * 32 + "." + "b" * 64}
    reply = send(guarded + "/api/session", json={"token": TOKEN}, cookies=chosen)
    assert reply.status_code == 200 and "a" * 32 not in reply.headers["set-cookie"]
    assert get(guarded + "/", cookies=chosen).headers.get("set-cookie") is None


def test_a_clip_closed_by_many_at_once(address):
    from concurrent.futures import ThreadPoolExecutor

    with httpx.Client(base_url=address, timeout=PATIENCE) as client:
        video = client.get("/api/videos").json()["videos"][0]["id"]
        for _ in range(5):
            clip = client.post("/api/clips", json={"video": video}).json()["id"]
            with ThreadPoolExecutor(6) as pool:
                watched = pool.submit(client.get, f"/api/clips/{clip}/events")
                closed = [pool.submit(client.delete, f"/api/clips/{clip}") for _ in range(5)]
                statuses = [reply.result().status_code for reply in closed]
                assert watched.result().status_code in (200, 404)
            assert statuses.count(204) >= 1 and set(statuses) <= {204, 404}
        assert client.get("/api/clips").json()["clips"] == []


NAMES_OF_FILES = {
    b"../../x.mp4": "x.mp4",
    b"/etc/passwd": "passwd",
    b"C:\\\\a\\\\b.mp4": "b.mp4",
    b"..": "the video",
    b"": "the video",
    b"a\xff.mp4": "a\ufffd.mp4",
    b"x" * 4000 + b".mp4": "x" * 120,
}


@pytest.mark.parametrize("given", NAMES_OF_FILES, ids=lambda name: repr(name[:12]))
def test_names_of_uploads(address, given):
    with httpx.Client(base_url=address, timeout=PATIENCE) as client:
        form = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="'
            + given
            + b'"\r\n\r\nx\r\n--b--\r\n'
        )
        headers = {"content-type": "multipart/form-data; boundary=b"}
        reply = client.post("/v1/files", content=form, headers=headers)
        assert reply.status_code == 200, reply.text
        assert reply.json()["filename"] == NAMES_OF_FILES[given]


FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="file"'
FORMS = {
    "no boundary": (b"x", "multipart/form-data"),
    "a long boundary": (b"x", "multipart/form-data; boundary=" + "b" * 5000),
    "nothing": (b"", FORM),
    "only its end": (b"--b--", FORM),
    "no end": (PART + b'; filename="a"\r\n\r\nx', FORM),
    "no file": (PART + b"\r\n\r\nx\r\n--b--\r\n", FORM),
    "many headers": (b"--b\r\n" + b"X: y\r\n" * 100_000, FORM),
    "a long header": (b"--b\r\nX: " + b"y" * 500_000, FORM),
    "JSON": (b"{}", "application/json"),
}


@pytest.mark.parametrize("name", FORMS)
def test_uploads_that_are_none(address, name):
    content, kind = FORMS[name]
    error_of(send(address + "/v1/files", content=content, headers={"content-type": kind}), 400, "")
