"""Pages whose commands are run as they stand: blocks of `sh` and `python`, in the page's order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["quickstart", "ask", "convert"])
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
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
