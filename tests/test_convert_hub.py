"""Models by their Hub ids: against a stand-in of the Hub's HTTP API on this machine, and from a cache."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from convert import hub, verify
from tempo_jax import checkpoint
from tempo_jax.errors import TempoError
from tests import tiny_checkpoints as tiny

REPO = Path(__file__).resolve().parent.parent
COMMITS = {"main": "a" * 40, "v2": "b" * 40}


class Hub(http.server.BaseHTTPRequestHandler):
    """The calls of the API that fetching a model takes."""

    folders: dict[str, Path]  # by commit
    asked: list[str]

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = unquote(urlparse(self.path).path)
        self.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            model, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
            if model == "org/gated":
                return self.error(403, "GatedRepo")
            if model != "org/tiny":
                return self.error(404, "RepoNotFound")
            commit = COMMITS.get(revision, revision)
            if commit not in self.folders:
                return self.error(404, "RevisionNotFound")
            files = sorted(f.relative_to(self.folders[commit]).as_posix() for f in self.files(commit))
            if len(parts) > 4 and parts[4] == "tree":
                found = [{"type": "file", "path": n, "size": (self.folders[commit] / n).stat().st_size,
                          "oid": "0" * 40} for n in files]  # fmt: skip
            else:
                found = {"id": model, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
            return self.send(json.dumps(found).encode(), "application/json", body)
        if len(parts) > 4 and parts[2] == "resolve" and parts[3] in self.folders:
            file = self.folders[parts[3]] / "/".join(parts[4:])
            if file.is_file():
                data = file.read_bytes()
                etag = hashlib.sha256(data).hexdigest()
                headers = {"ETag": f'"{etag}"', "X-Repo-Commit": parts[3]}
                return self.send(data, "application/octet-stream", body, headers)
        return self.error(404, "EntryNotFound")

    def files(self, commit):
        return [file for file in self.folders[commit].rglob("*") if file.is_file()]

    def error(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, data, kind, body, headers=()):
        self.send_response(200)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The endpoint's address, and what was asked of it."""
    root = tmp_path_factory.mktemp("hub")
    folders = {}
    for revision, commit in COMMITS.items():
        folders[commit] = tiny.write_llm(root / revision, vocab=64)
        (folders[commit] / "consolidated.safetensors").write_bytes(b"not wanted")
        (folders[commit] / "modeling.py").write_text("raise SystemExit")
        (folders[commit] / "LICENSE").write_text(revision)
    Hub.folders, Hub.asked = folders, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def run(served, home, source, target, *, offline=False, **more):
    """A conversion in a process of its own: the Hub's settings are read when its library is imported."""
    environment = {
        **os.environ, "HF_ENDPOINT": served, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline)),
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_OFFLINE": "1", **more,
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "convert.from_hf",
        "--model=qwen3",
        f"--source={source}",
        f"--target={target}",
    ]
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=120)


def test_an_id_is_fetched_once_and_then_works_without_a_network(served, tmp_path):
    done = run(served, tmp_path / "home", "org/tiny", tmp_path / "native")
    assert (done.returncode, done.stdout) == (0, f"wrote {tmp_path / 'native'}\n"), done.stderr
    model = checkpoint.read_model_json(tmp_path / "native")
    assert model.origin["from"] == {"source": f"org/tiny@{COMMITS['main']}"}
    assert verify.verify(tmp_path / "native", Hub.folders[COMMITS["main"]]).equal
    assert (tmp_path / "native" / "tokenizer" / "LICENSE").read_text() == "main"
    asked = " ".join(Hub.asked)
    assert "modeling.py" not in asked and "consolidated" not in asked, "only what is needed"
    again = run("http://127.0.0.1:9", tmp_path / "home", "org/tiny", tmp_path / "again", offline=True)
    assert again.returncode == 0, again.stderr


def test_a_revision(served, tmp_path):
    done = run(served, tmp_path / "home", "org/tiny@v2", tmp_path / "native")
    assert done.returncode == 0, done.stderr
    assert (
        checkpoint.read_model_json(tmp_path / "native").origin["from"]["source"]
        == f"org/tiny@{COMMITS['v2']}"
    )


@pytest.mark.parametrize(
    "source,words",
    [
        ("org/none", "is no folder here and no model on the Hub"),
        ("org/tiny@v9", "org/tiny on the Hub has no revision 'v9'"),
        ("org/gated", "lets only users who asked read org/gated"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(served, tmp_path, source, words):
    done = run(served, tmp_path / "home", source, tmp_path / "native")
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    "offline,words", [(True, "HF_HUB_OFFLINE is set"), (False, "the Hub cannot be reached")]
)
def test_without_a_network_it_says_so(tmp_path, offline, words):
    done = run("http://127.0.0.1:9", tmp_path / "home", "org/tiny", tmp_path / "native", offline=offline)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_folder_comes_before_an_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "tiny").mkdir(parents=True)
    assert hub.locate("the source", "org/tiny") == hub.Place(Path("org/tiny"))
    assert hub.locate("the source", "./x/y") == hub.Place(Path("x/y")), "no id has a dot in front"
    with pytest.raises(TempoError, match="HF_HUB_OFFLINE"):  # as the tests run
        hub.locate("the base", "org/other")
