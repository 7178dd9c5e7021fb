"""For tests of the HTTP API: a live loopback server, a stand-in model behind it, requests to it."""

import contextlib
import json

import pytest

from tempo_jax.serve.files import MediaFolders
from tempo_jax.serve.uploads import Uploads
from tests.serving import make_videos, service_of

MISSING = "needs pip install -e '.[serve]' httpx2"
httpx = pytest.importorskip("httpx2", reason=MISSING)
PATIENCE = 120  # seconds, for machines that are busy with something else
app = pytest.importorskip("tempo_jax.serve.app", reason=MISSING, exc_type=ImportError)
run = pytest.importorskip("tempo_jax.serve.run", reason=MISSING, exc_type=ImportError)


def get(url, **more):
    return httpx.get(url, timeout=PATIENCE, **more)


def send(url, **more):
    return httpx.post(url, timeout=PATIENCE, **more)


@contextlib.contextmanager
def server(folders=(), model=None, access=None, page=None, **limits):
    """(address, service) of a live server."""
    with service_of(model, **limits) as service:
        uploads = Uploads(service.limits)
        made = app.create_app(service, MediaFolders(folders), uploads, access, page)
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


def error_of(reply, status, said):
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert said in error["message"] and "\n" not in error["message"], error
    assert error["message"].endswith(".")
