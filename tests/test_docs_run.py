"""Pages whose commands are run as they stand: blocks of `sh` and `python`, in the page's order."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PAGES = ("quickstart", "ask", "convert", "training", "evaluation", "xcomp")
ELSEWHERE = ("serve",)  # by tests/test_docs.py, which needs a server for it
LONGEST_SECONDS = 1500  # of a page, on a busy machine
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


COMMAND = re.compile(
    r"(python|tempo|pip|make|source|git|gcloud|gcsfuse|docker|kubectl|xpk|for|all|export|printf"
    r"|build/\S+/bin|\w+=\S+ )"
)


def test_every_page_with_blocks_is_run():
    pages = {path.stem for path in (REPO / "docs").glob("*.md") if BLOCK.search(path.read_text("utf-8"))}
    assert pages == {*PAGES, *ELSEWHERE}


@pytest.mark.parametrize("page", sorted((REPO / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_other_commands_are_marked(page):
    """A command that is only indented stands in a section that says what is not executed."""
    unfenced = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for section in re.split(r"^(?=#+ )", unfenced, flags=re.MULTILINE):
        found = [line for line in re.findall(r"^    (\S.*)$", section, re.MULTILINE) if COMMAND.match(line)]
        assert not found or "ot executed here" in section, found


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page, tmp_path):
    """In a folder that looks like a clone; the page's own `build` is thrown away."""
    for entry in REPO.iterdir():
        if entry.name not in ("build", ".git"):
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "build").mkdir()
    blocks = BLOCK.findall((REPO / "docs" / f"{page}.md").read_text("utf-8"))
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
