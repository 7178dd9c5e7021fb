"""The notebook runs, with the model that ships."""

import json
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def test_every_cell_runs(tmp_path, monkeypatch, capsys):
    notebook = json.loads((ROOT / "examples" / "tempo.ipynb").read_text("utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    work = tmp_path / "work"
    work.mkdir()
    for name in ("checkpoints", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(work)  # what it writes stays there
    names = {}
    for cell in cells:
        exec(compile(cell, "tempo.ipynb", "exec"), names)
    out = capsys.readouterr().out
    assert "32 segments" in out and "4096:" in out
    assert Image.open(work / "tokens.png").size == (1600, 400)


def test_no_outputs_are_stored():
    notebook = json.loads((ROOT / "examples" / "tempo.ipynb").read_text("utf-8"))
    assert not any(cell.get("outputs") for cell in notebook["cells"])
