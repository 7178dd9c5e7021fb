"""Commands of the docs: blocks of `sh` and `python` run as they stand, in the order of the pages."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
DOCS = REPO / "docs"
PAGES = {path.relative_to(DOCS).with_suffix("").as_posix(): path for path in sorted(DOCS.rglob("*.md"))}
# Pages that are run one after the other in one folder, each on what those before have made.
RUNS = (
    ("getting-started/quickstart",),
    ("guides/inference",),
    ("guides/conversion",),
    ("guides/data", "guides/training"),
    ("guides/evaluation",),
    ("guides/xcomp",),
)
# Pages that another test runs, since they need a server or a checkpoint.
ELSEWHERE = {"reference/http-api": "test_docs.py", "reference/checkpoints": "test_convert_docs.py"}
LONGEST_SECONDS = 1500  # of a page, on a busy machine
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OTHER_BLOCK = re.compile(r"^ *```(?!sh\n|python\n)(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"# (untested: .+|tested by tests/(\w+\.py))$")
COMMAND = re.compile(
    r"(python|tempo|pip|make|source|git|gcloud|gcsfuse|docker|kubectl|xpk|for|all|export|printf|curl"
    r"|\S*/bin/|\w+=\S+ )"
)


def test_every_page_with_blocks_is_run():
    pages = {name for name, path in PAGES.items() if BLOCK.search(path.read_text("utf-8"))}
    assert pages == {page for run in RUNS for page in run} | set(ELSEWHERE)
    for test in ELSEWHERE.values():
        assert (REPO / "tests" / test).exists()


@pytest.mark.parametrize("page", PAGES)
def test_other_commands_are_marked(page):
    """A command that is not run stands in a block of `bash` whose first line says so, or who else runs it."""
    text = PAGES[page].read_text("utf-8")
    for language, code in OTHER_BLOCK.findall(text):
        lines = code.splitlines()
        if language == "bash":
            mark = MARK.match(lines[0].strip())
            assert mark, f"{page}: the first line of a bash block is no mark: {lines[0]}"
            assert mark[2] is None or (REPO / "tests" / mark[2]).exists(), lines[0]
        else:
            assert not [line for line in lines if re.match(r"\$|tempo [a-z]", line.strip())], (
                f"{page}: {code}"
            )
    unfenced = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    found = [line for line in re.findall(r"^    (\S.*)$", unfenced, re.MULTILINE) if COMMAND.match(line)]
    assert not found, f"{page}: commands that are only indented: {found}"


@pytest.mark.parametrize("pages", RUNS, ids=lambda pages: "+".join(pages))
def test_every_block_runs(pages, tmp_path):
    """In a folder that looks like a clone; what the pages build is thrown away."""
    for entry in REPO.iterdir():
        if entry.name not in ("build", ".git"):
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "build").mkdir()
    blocks = [block for page in pages for block in BLOCK.findall(PAGES[page].read_text("utf-8"))]
    assert blocks
    script = "set -e\n" + "".join(
        code if kind == "sh" else f"python - <<'PYTHON'\n{code}PYTHON\n" for kind, code in blocks
    )
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["XLA_FLAGS"] = ""  # one device, as a user has
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # most of the time goes into compiling
    with subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env=environment, text=True, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as page_run:  # fmt: skip
        try:
            told = page_run.communicate(timeout=LONGEST_SECONDS)[1]
        finally:
            with contextlib.suppress(ProcessLookupError):  # what a page starts beside itself, too
                os.killpg(page_run.pid, signal.SIGKILL)
    assert page_run.returncode == 0, told[-3000:]
    assert "Traceback" not in told
