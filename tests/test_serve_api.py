"""The HTTP API on a live loopback server, a stand-in model behind it: OpenAI's client and raw requests."""

import asyncio
import base64
import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tempo_jax.serve.files import Library, Uploads
from tests.serving import FakeModel, make_videos, service_of

MISSING = "needs pip install 'tempo_jax[serve]' httpx2"
httpx = pytest.importorskip("httpx2", reason=MISSING)
PATIENCE = 120  # seconds, for machines that are busy with something else
app = pytest.importorskip("tempo_jax.serve.app", reason=MISSING, exc_type=ImportError)
run = pytest.importorskip("tempo_jax.serve.run", reason=MISSING, exc_type=ImportError)

TOKEN = "a-secret-token"


def get(url, **more):
    return httpx.get(url, timeout=PATIENCE, **more)


def send(url, **more):
    return httpx.post(url, timeout=PATIENCE, **more)


@contextlib.contextmanager
def server(folders=(), model=None, access=None, **limits):
    """(address, service) of a live server."""
    with service_of(model, **limits) as service:
        uploads = Uploads(service.limits)
        made = app.create_app(service, Library(folders), uploads, access)
        try:
            with run.running(made.state.guarded, service) as address:
                yield address, service
        finally:
            uploads.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("allowed")
    make_videos(folder, 2)
    (folder / "outside.mp4").symlink_to(folder.parent / "outside.mp4")
    (folder.parent / "outside.mp4").write_bytes((folder / "v0.mp4").read_bytes())
    return folder


@pytest.fixture(scope="module")
def shared(folder):
    """One server for tests that leave it as they found it."""
    with server([folder]) as (address, service):
        yield address, service


@pytest.fixture
def post(shared):
    def post(body, path="/v1/chat/completions", **more):
        if isinstance(body, dict):
            more["json"] = body
        else:
            more["content"] = body
            more.setdefault("headers", {"content-type": "application/json"})
        return send(shared[0] + path, **more)

    return post


def body(url="v0.mp4", question="What?", kind="video_url", **more):
    parts = [{"type": kind, kind: {"url": url}}, {"type": "text", "text": question}]
    return {"model": "fake", "messages": [{"role": "user", "content": parts}], **more}


def sse(response):
    lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def data_uri(path):
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# What is answered


def test_an_answer(post):
    reply = post(body(max_tokens=7, tempo={"budget": 64}))
    values = reply.json()
    assert reply.status_code == 200 and values["object"] == "chat.completion"
    assert values["choices"][0]["message"] == {
        "role": "assistant",
        "content": "v0.mp4 says What?",
        "refusal": None,
    }
    assert values["choices"][0]["finish_reason"] == "stop"
    assert values["usage"] == {"prompt_tokens": 160, "completion_tokens": 3, "total_tokens": 163}
    assert [s["tokens"] for s in values["tempo"]["segments"]] == [4, 128]
    assert values["tempo"]["usage"]["budget"] == 64


def test_a_streamed_answer(shared):
    request = body(stream=True, stream_options={"include_usage": True}, max_tokens=3)
    url = shared[0] + "/v1/chat/completions"
    with httpx.stream("POST", url, json=request, timeout=PATIENCE) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *chunks, usage, end = sse(response)
    assert end == "[DONE]" and usage["choices"] == [] and usage["usage"]["total_tokens"] == 163
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "v0.mp4 says What?"
    assert [c["choices"][0]["finish_reason"] for c in chunks][-2:] == [None, "length"]
    assert chunks[-1]["tempo"]["segments"] and len({c["id"] for c in chunks}) == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_the_official_client(shared, folder, streaming):
    openai = pytest.importorskip("openai", reason="openai is not installed: pip install openai")
    with openai.OpenAI(base_url=shared[0] + "/v1", api_key="none", max_retries=0) as client:
        assert [m.id for m in client.models.list()] == ["fake"] and client.models.retrieve(
            "fake"
        ).id == "fake"
        uploaded = client.files.create(file=folder / "v1.mp4", purpose="vision")
        assert [f.id for f in client.files.list()].count(uploaded.id) == 1
        part = {"type": "video_url", "video_url": {"url": uploaded.id}}
        messages = [{"role": "user", "content": [part, {"type": "text", "text": "Who?"}]}]
        more = {"extra_body": {"tempo": {"max_frames": 8}}}
        if streaming:
            chunks = [*client.chat.completions.create(model="fake", messages=messages, stream=True, **more)]
            text = "".join(c.choices[0].delta.content or "" for c in chunks)
            extras = chunks[-1].tempo
        else:
            completion = client.chat.completions.create(model="fake", messages=messages, **more)
            text, extras = completion.choices[0].message.content, completion.tempo
        assert text == "v1.mp4 says Who?" and extras["usage"]["frames"] == 8
        assert client.files.delete(uploaded.id).deleted
        with pytest.raises(openai.NotFoundError, match="no upload"):
            client.files.retrieve(uploaded.id)
        with pytest.raises(openai.NotFoundError, match="There is no model"):
            client.chat.completions.create(model="gpt", messages=messages)


@pytest.mark.parametrize("form", ["relative", "absolute", "uri", "data"])
def test_ways_to_name_a_video(post, folder, form):
    path = folder / "v1.mp4"
    url = {"relative": "v1.mp4", "absolute": str(path), "uri": path.as_uri(), "data": data_uri(path)}[form]
    text = post(body(url)).json()["choices"][0]["message"]["content"]
    assert text.endswith("says What?") and (form == "data" or text.startswith("v1.mp4"))


def test_an_image(post, tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    uri = "data:image/png;base64," + base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    reply = post(body(uri, kind="image_url"))
    assert reply.status_code == 200 and reply.json()["tempo"]["usage"]["frames"] == 1


def test_a_conversation_about_one_video(post):
    first = body()["messages"][0]
    turns = [first, {"role": "assistant", "content": "A cat."}, {"role": "user", "content": "And then?"}]
    values = post({"model": "fake", "messages": turns}).json()
    assert values["choices"][0]["message"]["content"] == "v0.mp4 says And then?"
    assert "Earlier turns" in values["tempo"]["warnings"][-1]


def test_health_and_metrics(shared, post):
    post(body())
    health = get(shared[0] + "/health").json()
    assert health["status"] == "ok" and health["model"] == "fake"
    text = get(shared[0] + "/metrics").text
    for name in (
        "tempo_requests_total",
        "tempo_queue_waiting",
        "tempo_stage_seconds_bucket",
        "tempo_tokens_total",
    ):
        assert name in text
    get(shared[0] + "/made/up")
    assert "made" not in get(shared[0] + "/metrics").text


# What is refused


def error_of(reply, status, said):
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert said in error["message"] and "\n" not in error["message"], error
    assert error["message"].endswith(".")


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
    "two videos": (body() | {"messages": [TWO, ASK]}, 400, "exactly one"),
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
    "strategy": (body(tempo={"strategy": "best"}), 400, "one of head"),
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


# Under load


def test_fifty_at_once(folder):
    """Served or told to come back; none lost, none mixed up."""
    with server([folder], FakeModel(seconds=0.01), waiting=16) as (address, service):

        def one(number):
            name = f"v{number % 2}.mp4"
            with httpx.Client(timeout=PATIENCE) as client:
                reply = client.post(address + "/v1/chat/completions", json=body(name, f"q{number}"))
            if reply.status_code == 429:
                error_of(reply, 429, "try again")
                assert int(reply.headers["retry-after"]) >= 1
                return False
            assert reply.json()["choices"][0]["message"]["content"] == f"{name} says q{number}"
            return True

        with ThreadPoolExecutor(50) as pool:
            served = [*pool.map(one, range(50))]
        assert 16 <= sum(served) <= 50
        assert sum(len(batch) for batch in service.model.batches) == sum(served)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_client_that_goes_away_stops_the_work(folder, streaming):
    with server([folder]) as (address, service):

        async def leave():
            async with httpx.AsyncClient(timeout=PATIENCE) as client:
                request = client.post(
                    address + "/v1/chat/completions", json=body(question="slow", stream=streaming)
                )
                task = asyncio.create_task(request)
                await asyncio.to_thread(service.model.reached.wait, PATIENCE)
                task.cancel()

        asyncio.run(leave())
        wait_until(lambda: service.model.stopped == ["slow"])
        assert send(address + "/v1/chat/completions", json=body()).status_code == 200


def test_shutting_down_during_an_answer(folder):
    """What is under way is told in the stream, what waits gets a status."""
    with server([folder]) as (address, service):
        got = []

        url, slow = address + "/v1/chat/completions", body(question="slow", stream=True)

        def read():
            with httpx.stream("POST", url, json=slow, timeout=PATIENCE) as response:
                got.extend(sse(response))

        reader = threading.Thread(target=read)
        reader.start()
        service.model.reached.wait(PATIENCE)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(send, address + "/v1/chat/completions", json=body("v1.mp4"))
            wait_until(lambda: service.waiting == 1)
            service.close(grace=0.1)
            error_of(waiting.result(), 503, "shutting down")
        reader.join(PATIENCE)
        assert "shut down" in got[-1]["error"]["message"]
        error_of(send(address + "/v1/chat/completions", json=body()), 503, "shutting down")
        assert get(address + "/health").status_code == 503


def test_mutated_files_get_a_sentence():
    """A few of what benchmarks/hostile_files.py sends by the thousand."""
    pytest.importorskip("psutil", reason="needs pip install psutil")
    from benchmarks.hostile_files import attack

    with server() as (address, _):
        statuses = attack(address, 18)
        assert get(address + "/health").status_code == 200
    assert statuses[-1] == 0 and statuses[200] and statuses[400]
