"""What the HTTP API refuses: the status, and one sentence in OpenAI's error format."""

import contextlib

import pytest

from tests import serving_http as http
from tests.serving_http import PATIENCE, app, body, error_of, get, httpx, send, server

folder, shared, post = http.folder, http.shared, http.post
TOKEN = "a-secret-token"


TWO = {
    "role": "user",
    "content": [{"type": "video_url", "video_url": {"url": u}} for u in ("v0.mp4", "v1.mp4")],
}
ASK = {"role": "user", "content": "What?"}
MISTAKES = {
    "not json": (b"{", 400, "not JSON"),
    "not an object": (b"[]", 400, "JSON object"),
    "deep": (b"[" * 100_000, 400, "JSON"),
    "not text": (b'{"model": "\xff"}', 400, "not JSON"),
    "no model": ({"messages": [ASK]}, 400, "model is missing"),
    "unknown model": (body() | {"model": "gpt-4"}, 404, "There is no model"),
    "no messages": ({"model": "fake"}, 400, "messages is empty"),
    "empty messages": (body() | {"messages": []}, 400, "messages is empty"),
    "message": (body() | {"messages": ["hello"]}, 400, "needs a role"),
    "role": (body() | {"messages": [{"role": "cat", "content": "x"}]}, 400, "needs a role"),
    "content": (body() | {"messages": [{"role": "user", "content": 7}]}, 400, "text or a list"),
    "part": (body() | {"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, 400, "a part that"),
    "url": (body(url=7), 400, "video_url part without"),
    "no video": (body() | {"messages": [ASK]}, 400, "There is no video"),
    "two videos": (
        body() | {"messages": [TWO, ASK]},
        400,
        "There are 2 videos or images in the messages: send exactly one",
    ),
    "no question": (body(question="  "), 400, "ask a question"),
    "long question": (body(question="x" * 30_000), 400, "shorten it"),
    "last": (body() | {"messages": [ASK, {"role": "assistant", "content": "x"}]}, 400, "last message"),
    "stream": (body(stream="yes"), 400, "stream must be"),
    "n": (body(n=2), 400, "n is not supported"),
    "tools": (body(tools=[{"type": "function"}]), 400, "tools is not supported"),
    "budget": (body(tempo={"budget": 0}), 400, "budget is 0"),
    "frames": (body(tempo={"max_frames": 10_000}), 400, "from 1 to 2048"),
    "number": (body(max_tokens="7"), 400, "max_new_tokens is '7'"),
    "temperature": (body(temperature=3), 400, "temperature is 3"),
    "strategy": (body(tempo={"strategy": "best"}), 400, "one of head, tail."),
    "setting": (body(tempo={"magic": 1}), 400, "'magic' is unknown"),
    "tempo": (body(tempo=[1]), 400, "tempo must be"),
    "remote": (body("http://127.0.0.1/v.mp4"), 400, "fetches nothing"),
    "no file": (body("nothing.mp4"), 403, "have no file"),
    "up": (body("../outside.mp4"), 403, "have no file"),
    "link": (body("outside.mp4"), 403, "have no file"),
    "absolute": (body("/etc/passwd"), 403, "have no file"),
    "uri": (body("file:///etc/passwd"), 403, "have no file"),
    "encoded": (body("file:///%2e%2e/etc/passwd"), 403, "have no file"),
    "nul": (body("v0.mp4\0"), 400, "no path"),
    "long path": (body("x" * 5000), 403, "have no file"),
    "folder": (body("."), 403, "have no file"),
    "upload": (body("file-123"), 404, "no upload"),
    "data": (body("data:video/mp4;base64,!!!"), 400, "base64"),
    "plain data": (body("data:text/plain,hello"), 400, "base64"),
    "no video in it": (body("data:video/mp4;base64,aGVsbG8="), 400, "cannot be read"),
    "mistake": (body(question="mistake"), 400, "ask something else"),
    "bug": (body(question="bug"), 500, "this is a bug"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(post, name):
    request, status, said = MISTAKES[name]
    error_of(post(request), status, said)


def test_mistakes_in_a_stream_have_a_status_too(post):
    error_of(post(body(question="mistake", stream=True)), 400, "ask something else")
    error_of(post(body("data:video/mp4;base64,aGVsbG8=", stream=True)), 400, "cannot be read")


def test_other_paths_and_methods(shared, post):
    error_of(get(shared[0] + "/v2"), 404, "nothing at")
    error_of(get(shared[0] + "/v1/chat/completions"), 405, "GET is not possible")
    error_of(post(b"{}", headers={"content-type": "text/plain"}), 415, "application/json")
    error_of(get(shared[0] + "/v1/models/gpt"), 404, "There is no model")


def test_uploads_beyond_the_limit(shared, post):
    big = b"x" * (3 << 20)
    error_of(post(body("data:video/mp4;base64," + "A" * (3 << 19))), 413, "larger than")
    error_of(send(shared[0] + "/v1/files", files={"file": ("a.mp4", big)}), 413, "larger than")
    chunks = (big[i : i + 65536] for i in range(0, len(big), 65536))  # its length is not announced
    boundary = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
    with contextlib.suppress(httpx.WriteError):
        reply = send(
            shared[0] + "/v1/files",
            content=(part for part in (boundary, *chunks)),
            headers={"content-type": "multipart/form-data; boundary=b"},
        )
        error_of(reply, 413, "larger than")
    assert get(shared[0] + "/health").status_code == 200


@pytest.mark.parametrize(
    "more,said",
    [
        ({"data": {"purpose": "vision"}}, "multipart"),
        ({"files": {"other": ("a.mp4", b"x")}}, 'no "file"'),
        ({"files": {"file": ("a.mp4", b"")}}, "empty"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "multipart"),
    ],
)
def test_bad_uploads(shared, more, said):
    error_of(send(shared[0] + "/v1/files", **more), 400, said)


def test_the_token(folder):
    with server([folder], access=app.Access(TOKEN)) as (address, _):
        url = address + "/v1/models"
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": TOKEN},
            {"cookie": "tempo_token=x"},
        ):
            error_of(get(url, headers=headers), 401, "bearer token")
        error_of(get(url + "?token=wrong"), 401, "bearer token")
        assert get(url, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert get(address + "/health").status_code == 200
        with httpx.Client(timeout=PATIENCE) as browser:
            first = browser.get(url + f"?token={TOKEN}")
            assert first.status_code == 303 and first.headers["location"] == "/v1/models"
            assert "HttpOnly" in first.headers["set-cookie"]
            assert browser.get(url).status_code == 200


def test_other_names_for_a_loopback_server(folder):
    from tempo_jax.serve.guard import LOOPBACK

    with server([folder], access=app.Access(None, LOOPBACK)) as (address, _):
        assert get(address + "/v1/models").status_code == 200
        error_of(get(address + "/v1/models", headers={"host": "evil.example"}), 421, "evil.example")
