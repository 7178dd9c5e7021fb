"""What the HTTP API answers: OpenAI's client and raw requests."""

import base64

import pytest

from tests import serving_http as http
from tests.serving_http import PATIENCE, body, get, httpx, sse

folder, shared, post = http.folder, http.shared, http.post


def data_uri(path):
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


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


def test_a_conversation_about_one_video(shared, post):
    first = body()["messages"][0]
    turns = [first, {"role": "assistant", "content": "A cat."}, {"role": "user", "content": "And then?"}]
    values = post({"model": "fake", "messages": turns}).json()
    assert values["choices"][0]["message"]["content"] == "v0.mp4 says And then?"
    assert values["tempo"]["warnings"] == []
    assert shared[1].model.conversations[-1] == (("user", "What?", True), ("assistant", "A cat.", False))


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
