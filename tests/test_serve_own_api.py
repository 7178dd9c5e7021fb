"""The API of our own, /api: sessions, videos, clips, questions as events."""

import json
import re

import pytest

from tests import serving_http as http
from tests.serving import wait_until
from tests.serving_http import PATIENCE, app, error_of, httpx, server

folder, shared = http.folder, http.shared
TOKEN = "a-secret-token"


@pytest.fixture
def client(shared):
    """A browser of its own, signed in."""
    with httpx.Client(base_url=shared[0], timeout=PATIENCE) as browser:
        browser.get("/api/session")
        yield browser


def listed(client, name):
    return next(v for v in client.get("/api/videos").json()["videos"] if v["name"] == name)


def asked(client, **body):
    """Names and data of the events."""
    with client.stream("POST", "/api/questions", json=body) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return events(response)


def events(response):
    found, name = [], None
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((name, json.loads(line.removeprefix("data: "))))
    return found


def test_a_question_as_events(client):
    video = listed(client, "v0.mp4")
    client.delete("/api/session")  # whatever was open
    client.get("/api/session")
    got = asked(client, video=video["id"], question="Who?", settings={"max_frames": 15, "max_new_tokens": 9})
    names = [name for name, _ in got]
    assert names[0] == "question" and names[-1] == "done"
    assert names.index("started") < names.index("progress") < names.index("clip") < names.index("piece")
    values = dict(got)
    assert values["done"]["text"] == "v0.mp4 says Who?" == "".join(d["text"] for n, d in got if n == "piece")
    assert [s["tokens"] for s in values["done"]["segments"]] == [4, 128]
    assert values["done"]["saved_seconds"] == 0 and values["done"]["first_token_seconds"] > 0
    opening = [d for n, d in got if n == "progress" and d["stage"] == "open"]
    assert opening[-1]["done"] == opening[-1]["total"] == 15
    clip = values["clip"]
    assert clip["state"] == "open" and clip["frame_count"] == 15 and len(clip["segments"]) == 2
    picture = client.get(clip["segments"][1]["thumbnail_url"])
    assert picture.headers["content-type"] == "image/jpeg" and picture.content[:2] == b"\xff\xd8"
    again = dict(asked(client, clip=clip["id"], question="Where?"))
    assert again["started"] == {"reused": True} and again["done"]["video_reused"]
    assert again["done"]["saved_seconds"] == again["done"]["open_seconds"] > 0


def test_a_conversation(shared, client):
    history = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A cat."}]
    asked(client, video=listed(client, "v0.mp4")["id"], question="Where?", history=history)
    said = shared[1].model.conversations[-1]
    assert said == (("user", "Who?", True), ("assistant", "A cat.", False))


def test_opening_before_asking(client):
    video = listed(client, "v1.mp4")
    made = client.post("/api/clips", json={"video": video["id"], "max_frames": 12})
    assert made.status_code == 201
    clip = made.json()
    assert client.post("/api/clips", json={"video": video["id"], "max_frames": 12}).json()["id"] == clip["id"]
    with client.stream("GET", f"/api/clips/{clip['id']}/events") as response:
        got = events(response)
    assert {name for name, _ in got} == {"clip"} and got[-1][1]["state"] == "open"
    assert [c["id"] for c in client.get("/api/clips").json()["clips"]].count(clip["id"]) == 1
    assert client.delete(f"/api/clips/{clip['id']}").status_code == 204
    error_of(client.get(f"/api/clips/{clip['id']}"), 404, "no such clip")


def test_a_clip_that_cannot_be_opened(client):
    sent = client.post("/v1/files", files={"file": ("bad.mp4", b"hello")}).json()
    clip = client.post("/api/clips", json={"video": sent["id"]}).json()
    with client.stream("GET", f"/api/clips/{clip['id']}/events") as response:
        last = events(response)[-1][1]
    assert last["state"] == "failed" and "bad.mp4 cannot be read" in last["error"]["message"]
    name, data = asked(client, video=sent["id"], question="What?")[-1]
    assert name == "error" and data["status"] == 400 and "bad.mp4" in data["error"]["message"]


def test_stop(shared, client):
    model = shared[1].model
    model.reached.clear()
    model.go.clear()
    with client.stream(
        "POST", "/api/questions", json={"video": listed(client, "v0.mp4")["id"], "question": "slow"}
    ) as response:
        got = []
        for line in response.iter_lines():
            got.append(line)
            if line.startswith("data: ") and "question-" in line:
                identity = json.loads(line.removeprefix("data: "))["id"]
            if line == "event: piece" and got.count(line) == 1:
                model.reached.wait(PATIENCE)
                assert client.delete(f"/api/questions/{identity}").status_code == 204
    assert "event: stopped" in got
    wait_until(lambda: model.stopped and model.stopped[-1] == "slow")
    error_of(client.delete(f"/api/questions/{identity}"), 404, "no such question")


def test_a_place_in_the_queue(shared, client):
    model = shared[1].model
    model.reached.clear()
    model.go.clear()
    video = listed(client, "v0.mp4")["id"]
    with client.stream("POST", "/api/questions", json={"video": video, "question": "slow"}) as first:
        model.reached.wait(PATIENCE)
        with client.stream("POST", "/api/questions", json={"video": video, "question": "next"}) as second:
            lines = second.iter_lines()
            found = next(line for line in lines if line.startswith("data: ") and "place" in line)
            assert json.loads(found.removeprefix("data: "))["place"] == 1
            model.go.set()
            assert any("event: done" in line for line in lines)
        first.read()


def test_what_is_wrong_with_a_question(client):
    video = listed(client, "v0.mp4")["id"]
    good = {"video": video, "question": "Who?"}
    for body, status, said in [
        ({"question": "Who?"}, 400, "one of them"),
        ({**good, "clip": "clip-0"}, 400, "one of them"),
        ({**good, "question": "  "}, 400, "ask a question"),
        ({**good, "magic": 1}, 400, "'magic' is unknown"),
        ({**good, "settings": {"bugdet": 1}}, 400, "use budget"),
        ({**good, "settings": {"budget": 10**400}}, 400, "budget is a number of"),
        ({**good, "settings": {"seed": 10**400}}, 400, "seed is a number of"),
        ({**good, "history": [{"role": "cat", "content": "x"}]}, 400, "history.0 needs"),
        ({**good, "history": [{"role": "user", "content": "x"}] * 99}, 400, "history has more"),
        ({**good, "video": "file-" + "0" * 24}, 404, "no uploaded file"),
        ({**good, "video": "video-" + "0" * 24}, 404, "no such video"),
        ({**good, "video": "v0.mp4"}, 404, "no video"),
        ({"clip": "clip-" + "0" * 24, "question": "Who?"}, 404, "no such clip"),
        ([], 400, "JSON object"),
    ]:
        error_of(client.post("/api/questions", json=body), status, said)


def test_others_see_nothing_of_a_session(shared, client, folder):
    sent = client.post("/v1/files", files={"file": ("mine.mp4", (folder / "v0.mp4").read_bytes())}).json()
    clip = client.post("/api/clips", json={"video": sent["id"]}).json()
    assert [v["name"] for v in client.get("/api/videos").json()["videos"]][0] == "mine.mp4"
    assert [f["id"] for f in client.get("/v1/files").json()["data"]] == [sent["id"]]
    with httpx.Client(base_url=shared[0], timeout=PATIENCE) as other:
        for _ in range(2):  # without a session, and with one
            assert "mine.mp4" not in other.get("/api/videos").text + other.get("/v1/files").text
            assert other.get("/api/clips").json()["clips"] == []
            for path in (f"/v1/files/{sent['id']}", f"/api/videos/{sent['id']}", f"/api/clips/{clip['id']}"):
                error_of(other.get(path), 404, "There is no")
                assert other.delete(path).status_code == 404
            error_of(other.get(f"/api/videos/{sent['id']}/media"), 404, "There is no")
            body = {"video": sent["id"], "question": "What?"}
            error_of(other.post("/api/questions", json=body), 404, "There is no")
    assert client.delete("/api/session").status_code == 204
    client.get("/api/session")
    error_of(client.get(f"/v1/files/{sent['id']}"), 404, "There is no")


def test_clients_without_cookies_name_their_uploads(shared, folder):
    """As the Node client does; nobody can list them."""
    data = (folder / "v0.mp4").read_bytes()
    sent = httpx.post(shared[0] + "/v1/files", files={"file": ("a.mp4", data)}, timeout=PATIENCE).json()
    assert httpx.get(f"{shared[0]}/v1/files/{sent['id']}").json()["filename"] == "a.mp4"
    assert httpx.get(shared[0] + "/v1/files").json()["data"] == []
    assert httpx.delete(f"{shared[0]}/v1/files/{sent['id']}").json()["deleted"]


def test_media_by_ranges(client, folder):
    whole = (folder / "v0.mp4").read_bytes()
    url = listed(client, "v0.mp4")["media_url"]
    full = client.get(url)
    assert full.content == whole and full.headers["content-type"] == "video/mp4"
    assert full.headers["accept-ranges"] == "bytes" and "sandbox" in full.headers["content-security-policy"]
    assert full.headers["content-disposition"].startswith("inline")
    part = client.get(url, headers={"range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == whole[10:20]
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole)}"
    assert client.get(url, headers={"range": "bytes=-5"}).content == whole[-5:]
    assert client.get(url, headers={"range": "potatoes=1-2"}).content == whole
    assert client.get(url, headers={"range": "bytes=5-2"}).status_code == 200
    error_of(client.get(url, headers={"range": f"bytes={len(whole)}-"}), 416, "nothing of the range")
    head = client.head(url)
    assert head.status_code == 200 and head.content == b""
    assert int(head.headers["content-length"]) == len(whole)


def test_the_library(client):
    page = client.get("/api/videos", params={"query": "V1"}).json()
    (found,) = page["videos"]
    assert page["total"] == 1 and found["name"] == "v1.mp4" and found["kind"] == "video"
    assert client.get("/api/videos", params={"limit": 1, "offset": 1}).json()["videos"][0]["name"] == "v1.mp4"
    error_of(client.get("/api/videos", params={"limit": 0}), 400, "limit")
    picture = client.get(page["videos"][0]["thumbnail_url"])
    assert picture.headers["content-type"] == "image/jpeg" and picture.content[:2] == b"\xff\xd8"
    error_of(client.delete(f"/api/videos/{page['videos'][0]['id']}"), 403, "only uploads")


def test_settings_and_limits_are_published(client):
    rows = {row["name"]: row for row in client.get("/api/settings").json()["settings"]}
    assert rows["budget"]["published"] == {"minimum": 64, "maximum": 16384, "step": 64}
    assert rows["max_frames"]["published"] == {"minimum": 16, "maximum": 2048, "step": 16}
    assert rows["max_new_tokens"]["published"] == {"minimum": 64, "maximum": 4096, "step": 64}
    assert rows["temperature"]["published"] == {"minimum": 0, "maximum": 1, "step": 0.1}
    assert rows["strategy"]["choices"] == ["head", "tail"] and rows["max_frames"]["group"] == "video"
    info = client.get("/api/info").json()
    assert info["model"]["id"] == "fake" and info["limits"]["upload_bytes"] == 1 << 20


def test_signing_in(folder, tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html><title>x</title>")
    with (
        http.server([folder], access=app.Access(TOKEN), page=tmp_path) as (address, _),
        httpx.Client(base_url=address, timeout=PATIENCE) as client,
    ):
        assert client.get("/").status_code == 200  # the page, which asks for the token
        assert client.get("/api/session").json() == {"token_required": True, "signed_in": False}
        for path in ("/api/info", "/api/videos", "/api/clips", "/v1/models", "/metrics", "/openapi.json"):
            error_of(client.get(path), 401, "token")
        assert "tempo_session" not in client.cookies
        error_of(client.post("/api/session", json={"token": "wrong"}), 401, "not the server's token")
        signed = client.post("/api/session", json={"token": TOKEN})
        assert signed.json() == {"token_required": True, "signed_in": True}
        cookie = signed.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
        assert client.get("/api/videos").status_code == 200
        made_up = re.sub("tempo_session=.{5}", "tempo_session=00000", cookie.split(";")[0])
        error_of(httpx.get(address + "/api/videos", headers={"cookie": made_up}), 401, "token")
        assert client.delete("/api/session").status_code == 204
        error_of(client.get("/api/videos"), 401, "token")


def test_the_pages_files(folder, tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html><title>x</title>")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.js").write_text("export const a = 1;\n")
    (tmp_path / ".hidden.js").write_text("no")
    (tmp_path / "notes.md").write_text("no")
    with http.server([folder], page=tmp_path) as (address, _):
        page = httpx.get(address + "/")
        assert page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        script = httpx.get(address + "/parts/a.js")
        assert script.headers["content-type"].startswith("text/javascript")
        assert script.headers["x-content-type-options"] == "nosniff"
        for path in ("/.hidden.js", "/notes.md", "/parts/", "/parts/../../serving.py", "/%2e%2e/serving.py"):
            error_of(httpx.get(address + path), 404, "nothing at")
    with http.server([folder], page=None) as (address, _):
        error_of(httpx.get(address + "/"), 404, "nothing at")


def test_the_description(client):
    described = client.get("/openapi.json").json()
    paths = {
        f"{method} {path}"
        for path, methods in described["paths"].items()
        for method in methods
    }  # fmt: skip
    for route in ("post /v1/chat/completions", "post /v1/files", "get /api/videos", "post /api/questions"):
        assert route in paths
    body = described["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]
    assert {"messages", "budget", "stop", "max_tokens"} <= set(body["schema"]["properties"])
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html") and "<script" not in page.text
    assert "/api/clips/{identity}/events" in page.text


def test_every_get_answers_head_too(shared):
    for path in ("/health", "/metrics", "/v1/models", "/api/info", "/docs"):
        reply = httpx.head(shared[0] + path)
        assert reply.status_code == 200 and reply.content == b"", path


@pytest.mark.parametrize("server_has", ["waiting", "streaming"])
def test_a_long_silence_is_filled(folder, monkeypatch, server_has):
    from tempo_jax.serve import asking
    from tests.serving import FakeModel

    monkeypatch.setattr(asking, "HEARTBEAT_SECONDS", 0.05)
    with server([folder]) as (address, service):
        body = http.body("v0.mp4", "slow", stream=True)
        if server_has == "waiting":  # nothing of the answer is there
            held = FakeModel.open

            def slowly(self, *arguments):
                self.go.wait(PATIENCE)
                return held(self, *arguments)

            monkeypatch.setattr(FakeModel, "open", slowly)
        with httpx.stream("POST", address + "/v1/chat/completions", json=body, timeout=PATIENCE) as response:
            lines = response.iter_lines()
            assert next(line for line in lines if line.startswith(": "))
            service.model.go.set()
            assert [line for line in lines if line][-1] == "data: [DONE]"
