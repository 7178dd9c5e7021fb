"""OpenAI's own clients, for Python and for Node, against the server."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests import serving_http as http
from tests.serving_http import PATIENCE

folder, shared = http.folder, http.shared
REPO = Path(__file__).resolve().parent.parent
NODE_MODULES = REPO / "build" / "node" / "node_modules"


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.new("RGB", (40, 30), (200, 0, 0)).save(path)
    return path


def test_node(shared, folder, picture):
    if shutil.which("node") is None:
        pytest.skip("needs node")
    if not (NODE_MODULES / "openai").is_dir():
        pytest.skip("needs the npm package openai: make test-node")
    done = subprocess.run(
        ["node", REPO / "tests" / "openai_client.cjs", shared[0], "fake", folder / "v0.mp4", picture],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"NODE_PATH": str(NODE_MODULES)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["models"] == ["fake"] and found["filename"] == "v0.mp4"
    assert found["whole"] == "v0.mp4 says Who?" and found["segments"] == 2
    assert found["streamed"] == "v0.mp4 says Where?" and found["tokens"] == 163
    assert found["image"] == 1 and found["deleted"] is True
    status, param, message = found["refused"]
    assert (status, param) == (400, "n") and "n is not supported" in message
    said = [("user", "Who?", True), ("assistant", "A cat.", False)]
    assert tuple(said) in shared[1].model.conversations


@pytest.mark.parametrize("streaming", [False, True])
def test_python_in_several_turns(shared, picture, streaming):
    openai = pytest.importorskip("openai", reason="openai is not installed: pip install openai")
    messages = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "video_url", "video_url": {"url": "v0.mp4"}},
                {"type": "text", "text": "Who?"},
            ],
        },
    ]
    with openai.OpenAI(base_url=shared[0] + "/v1", api_key="none", max_retries=0) as client:
        first = client.chat.completions.create(model="fake", messages=messages)
        messages += [first.choices[0].message, {"role": "user", "content": "Where?"}]
        second = client.chat.completions.create(model="fake", messages=messages, stream=streaming, stop="Wh")
        if streaming:
            second = "".join(chunk.choices[0].delta.content or "" for chunk in second)
        else:
            second = second.choices[0].message.content
    assert second.startswith("v0.mp4 says")
    assert shared[1].model.conversations[-1] == (
        ("system", "Be brief.", False),
        ("user", "Who?", True),
        ("assistant", "v0.mp4 says Who?", False),
    )


def test_python_with_an_image(shared, picture):
    openai = pytest.importorskip("openai", reason="openai is not installed: pip install openai")
    import base64

    uri = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    part = {"type": "image_url", "image_url": {"url": uri, "detail": "auto"}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "What color?"}]}]
    with openai.OpenAI(base_url=shared[0] + "/v1", api_key="none", max_retries=0) as client:
        done = client.chat.completions.create(model="fake", messages=messages)
        part["image_url"]["detail"] = "low"
        with pytest.raises(openai.BadRequestError, match="detail is not supported"):
            client.chat.completions.create(model="fake", messages=messages)
    assert done.tempo["usage"]["frames"] == 1 and done.choices[0].message.content.endswith("What color?")
