"""`tempo serve`, `tempo doctor` and `tempo completion` as commands."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

from tempo_jax import cli
from tempo_jax.cli import common, doctor, entry, serve
from tests import tiny_training
from tests.serving import make_videos, serving_process

REPO = Path(__file__).resolve().parent.parent
FAKE = """
import sys
from tempo_jax import cli
from tempo_jax.serve import model
from tests.serving import FakeModel
model.load = lambda checkpoint, name, dtype, sampling: FakeModel()
sys.exit(cli.main(sys.argv[1:]))
"""


def mistake(capsys, *arguments):
    assert cli.main(["serve", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err, err
    return err


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("TEMPO_CHECKPOINT", serve.TOKEN_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["--checkpoint", "/nowhere"], "no checkpoint folder"),
        (["--folder", "/nowhere/at/all"], "no folder"),
        (["--token-file", "/nowhere/token"], "cannot be read"),
        (["--port", "-1"], "--port"),
        (["--port", "99999"], "the last port"),
        (["--allow-origin", "lab.example"], "https://lab.example"),
        (["--queue", "0"], "--queue"),
        (["--dtype", "int4"], "--dtype"),
    ],
)
def test_mistakes(capsys, arguments, said):
    assert said in mistake(capsys, *arguments)


def test_options_of_earlier_releases_are_accepted_and_not_shown(capsys):
    parser = entry._parser()
    args = parser.parse_args(["serve", "--open-videos", "7", "--open-mib", "512"])
    assert (args.cached_videos, args.cache_mib) == (7, 512)
    assert parser.parse_args(["serve"]).cached_videos == 4
    with pytest.raises(SystemExit):
        parser.parse_args(["serve", "--help"])
    shown = capsys.readouterr().out
    assert "--cached-videos" in shown and "--open-" not in shown
    assert cli.main(["completion", "fish"]) == 0
    assert "open-mib" not in capsys.readouterr().out


def test_a_token_that_cannot_be_sent(capsys, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("short\n")
    assert "letters" in mistake(capsys, "--token-file", tmp_path / "token")
    monkeypatch.setenv(serve.TOKEN_VARIABLE, "white space in it")
    assert "letters" in mistake(capsys)


def test_what_is_not_installed_is_said(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: None if name == "uvicorn" else "1.0")
    assert "Serving needs uvicorn: pip install -e '.[serve]'" in mistake(capsys)


@pytest.mark.parametrize(
    "option,variable", [(None, None), ("checkpoints/demo", None), (None, "checkpoints/demo")]
)
def test_the_demos_video_is_there_however_the_demo_is_named(option, variable, monkeypatch, tmp_path):
    monkeypatch.chdir(REPO)
    if variable:
        monkeypatch.setenv("TEMPO_CHECKPOINT", variable)
    checkpoint = common.checkpoint_folder(option)
    assert serve.example_folders(checkpoint) == [REPO / "examples" / "hour"]
    assert serve.example_folders(tmp_path) == []  # another model's video is not ours to choose


def test_a_port_that_is_taken(capsys):
    import socket

    pytest.importorskip("uvicorn", reason="needs pip install -e '.[serve]'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "Cannot listen" in mistake(capsys, "--no-page", "--port", taken.getsockname()[1])


def test_sigterm_during_an_answer(tmp_path):
    httpx = pytest.importorskip("httpx2", reason="needs pip install -e '.[serve]' httpx2")
    pytest.importorskip("uvicorn", reason="needs pip install -e '.[serve]'")
    make_videos(tmp_path, 1)
    arguments = ["serve", "--no-page", "--port", "0", "--folder", str(tmp_path), "--grace", "0.3"]
    part = {"type": "video_url", "video_url": {"url": "v0.mp4"}}
    content = [part, {"type": "text", "text": "slow"}]
    body = {"model": "fake", "stream": True, "messages": [{"role": "user", "content": content}]}
    got = []
    with serving_process("-c", FAKE, *arguments) as (process, address, lines):
        with httpx.stream("POST", address + "/v1/chat/completions", json=body, timeout=120) as response:
            for line in response.iter_lines():
                got.append(line)
                if len(got) == 4:  # the answer is under way
                    process.send_signal(signal.SIGTERM)
        rest = "".join(lines)
        assert process.wait(30) == 0, rest
    assert "stopped" in rest and "Traceback" not in rest
    assert "shut down" in got[-2] or "shut down" in got[-1]


def test_sigterm_during_an_answer_of_the_demo_model(tmp_path):
    """What was said so far has arrived, then a sentence; the process ends within its grace and a second."""
    httpx = pytest.importorskip("httpx2", reason="needs pip install -e '.[serve]' httpx2")
    make_videos(tmp_path, 1)
    demo = tmp_path / "endless"  # another end token, so that the answer is as long as asked for
    shutil.copytree(REPO / "checkpoints" / "demo", demo, symlinks=True)
    info = json.loads((demo / "model.json").read_text("utf-8"))
    info["config"]["eos_ids"] = [info["config"]["llm"]["vocab_size"] - 1]
    (demo / "model.json").write_text(json.dumps(info))
    arguments = ("--no-page", "--port", "0", "--folder", str(tmp_path), "--checkpoint", str(demo))
    part = {"type": "video_url", "video_url": {"url": "v0.mp4"}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}]
    body = {"model": "tempo-endless", "stream": True, "messages": messages, "max_tokens": 4096, "budget": 64}
    got, began = [], 0.0
    with (
        tiny_training.unoptimised(),
        serving_process("-m", "tempo_jax.cli", "serve", "--grace", "0.2", *arguments) as started,
    ):
        process, address, lines = started
        with httpx.stream("POST", address + "/v1/chat/completions", json=body, timeout=120) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):  # not a sign of life while it compiles
                    assert line != "data: [DONE]", got
                    got.append(json.loads(line.removeprefix("data: ")))
                    if len(got) == 3:
                        process.send_signal(signal.SIGTERM)
                        began = time.monotonic()
        assert process.wait(60) == 0
        seconds, rest = time.monotonic() - began, "".join(lines)
    assert "stopped" in rest and "Traceback" not in rest
    assert got[2]["choices"][0]["delta"]["content"] and "shut down" in got[-1]["error"]["message"], got
    assert seconds < 20, seconds  # the grace and a second, on a machine that may be busy


# tempo doctor


def test_doctor(capsys):
    assert cli.main(["doctor"]) == 0
    out, _ = capsys.readouterr()
    for word in ("Python", "devices", "jax", "[serve]", "JAX_COMPILATION_CACHE_DIR", "checkpoint"):
        assert word in out
    assert "MISSING" not in out


def test_doctor_names_a_cache_in_a_bucket(capsys, monkeypatch):
    for url, words in (("s3://bucket/xla", "is in s3:// storage"), ("gs://", "names no bucket")):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", url)
        assert cli.main(["doctor"]) == 0
        assert words in capsys.readouterr().out


def test_doctor_as_json(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["devices"]["backend"] == "cpu" and found["packages"]["jax"]


def test_doctor_says_what_to_upgrade(capsys, monkeypatch):
    installed = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "14.0.0" if name == "av" else installed(name))
    assert cli.main(["doctor"]) == 2
    out, err = capsys.readouterr()
    assert "upgrade      av 14.0.0, which is not >=" in out
    assert err.count("\n") == 1 and "pip install 'av>=" in err


def test_doctor_says_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: None if name in ("flax", "uvicorn") else "1.0")
    assert cli.main(["doctor"]) == 2
    out, err = capsys.readouterr()
    assert "flax MISSING" in out and "missing uvicorn: pip install -e '.[serve]'" in out
    assert err == "tempo: flax is missing: pip install -e . in the clone.\n"


def test_doctor_knows_what_pyproject_asks_for():
    project = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]

    def names(requirements):
        return {re.match(r"[\w.-]+", requirement)[0] for requirement in requirements}

    assert names(project["dependencies"]) == set(doctor.CORE)
    extras = {extra: names(rows) for extra, rows in project["optional-dependencies"].items()}
    extras["plan"] = {"libtpu"}  # which is what jax[tpu] adds
    assert extras == {extra: set(rows) for extra, rows in doctor.EXTRAS.items()}


# tempo completion


def test_every_command_and_option_completes_in_bash(capsys):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out

    def complete(*words):
        line = " ".join(f'"{word}"' for word in words)
        ask = f'{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _tempo; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run([bash, "-c", ask], capture_output=True, text=True)
        assert not done.stderr
        return done.stdout.split()

    assert complete("tempo", "") == ["ask", "batch", "plan", "warmup", "serve", "doctor", "completion"]
    assert complete("tempo", "ask", "--bud") == ["--budget"]
    assert complete("tempo", "ask", "--strategy", "t") == ["tail", "tome"]
    assert complete("tempo", "completion", "") == ["bash", "zsh", "fish"]


# What is said to a shell that has read the script, and what it answers.
SHELLS = {
    "fish": ('complete -C "tempo ask --strategy t"', {"tail", "tome"}),
    "zsh": ('echo "$_comps[tempo]"', {"_tempo"}),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_other_shells(capsys, shell, tmp_path):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "budget" in script and "{" not in script.replace("${", "").replace("() {", "")
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here to try it")
    (tmp_path / "script").write_text(script)
    said, answers = SHELLS[shell]
    start = "autoload -Uz compinit; compinit -u -D;" if shell == "zsh" else ""
    done = subprocess.run(
        [shell, *(["-f"] if shell == "zsh" else []), "-c", f"{start} source {tmp_path}/script; {said}"],
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    assert not done.stderr and answers <= set(done.stdout.split())
