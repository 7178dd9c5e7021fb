"""The docs: commands that the parser accepts, messages that exist, examples of the HTTP API that work."""

import ast
import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tempo_jax.cli import entry
from tempo_jax.data.minireel import option_of
from tests.serving import serving_process

REPO = Path(__file__).resolve().parent.parent
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]
API = REPO / "docs" / "reference" / "http-api.md"
COMMAND = re.compile(r"^ *(?:\S*bin/)?tempo ([a-z].*)$", re.MULTILINE)


def commands():
    return [
        pytest.param(command, id=f"{page.name}-{command[:40]}")
        for page in PAGES
        for command in COMMAND.findall(page.read_text("utf-8").replace("\\\n", " "))
    ]


@pytest.mark.parametrize("line", commands())
def test_the_parser_takes_every_command(line):
    words = shlex.split(re.split(" [|>] ", line)[0], comments=True)
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()) as said:
        entry._parser().parse_args(words)
    assert said.getvalue() == ""


def templates():
    """Every text in the package, with … for what is filled in."""
    for path in (REPO / "tempo_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_what_troubleshooting_quotes_is_said():
    said = list(templates())
    text = (REPO / "docs" / "troubleshooting.md").read_text("utf-8")
    quotes = []
    for line in text.splitlines():
        if line.startswith("|"):
            quotes += re.findall(r"`([^`]+)`", line.split("|")[1])
    assert len(quotes) > 8
    for quote in quotes:
        pattern = re.compile(".*".join(map(re.escape, quote.split("…"))))
        assert any(pattern.search(one) for one in said), quote


@pytest.fixture(scope="module")
def served():
    """The address of `tempo serve` with the demo model."""
    pytest.importorskip("uvicorn", reason="needs pip install -e '.[serve]'")
    with serving_process("-m", "tempo_jax.cli", "serve", "--no-page", "--port", "0") as (_, address, _):
        yield address


def test_the_example_of_serving_gets_the_right_answer(served, capsys):
    """The page's Python as it stands but for the address."""
    pytest.importorskip("openai", reason="openai is not installed: pip install openai")
    example = re.search(r"```python\n(.+?)```", API.read_text("utf-8"), re.DOTALL)[1]
    assert "http://127.0.0.1:8000/v1" in example
    exec(example.replace("http://127.0.0.1:8000", served), {})
    answer = capsys.readouterr().out.splitlines()[0]
    hour = (REPO / "examples" / "hour" / "questions.jsonl").read_text("utf-8").splitlines()
    row = next(row for row in map(json.loads, hour) if row["text"] in example)
    assert option_of(answer, row["options"]) == row["answer_letter"]


CURL = re.findall(r"```sh\n(.+?)```", API.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", CURL, ids=range(len(CURL)))
def test_the_curl_examples_of_serving_run(served, block):
    """As they stand but for the address, in the folder of the demo's video."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    assert "curl" in block and "http://127.0.0.1:8000" in block
    script = "set -euo pipefail\n" + block.replace("http://127.0.0.1:8000", served)
    script = script.replace("curl ", "curl --silent --show-error --fail-with-body ")
    done = subprocess.run(
        ["bash", "-c", script], cwd=REPO / "examples" / "hour", capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("chat.completion" in done.stdout) or (
        "event: done" in done.stdout and '"deleted":true' in done.stdout
    )
