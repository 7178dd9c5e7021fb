"""The model that ships: small enough, with the logs of its training, and right about the hour that ships."""

import json
import subprocess
import sys
from pathlib import Path

from tempo_jax import checkpoint
from tempo_jax.models.presets import DEMO

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "checkpoints" / "demo"
HOUR = ROOT / "examples" / "hour"
MIB = 2**20


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_model_is_the_preset_and_small():
    assert checkpoint.read_model_json(SHIPPED, "tempo").config == DEMO
    assert size(SHIPPED) <= 16 * MIB


def test_the_logs_of_its_training_are_with_it():
    logs = sorted(SHIPPED.glob("*.jsonl"))
    assert {log.stem for log in logs} == {"see", "ask", "note", "note_long", "stage0"}
    for log in logs:
        first = json.loads(log.read_text("utf-8").splitlines()[0])
        assert {"step", "loss"} <= set(first), log.name


def test_the_hour_is_an_hour_and_small():
    rows = [json.loads(line) for line in (HOUR / "questions.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) >= 5 and {row["seconds"] for row in rows} == {4096.0}
    assert rows[0]["video"].startswith("test-")  # of the split that nothing was trained on
    assert (HOUR / rows[0]["video"]).stat().st_size <= 4 * MIB


def test_the_example_answers_and_draws(tmp_path):
    plot = tmp_path / "where.png"
    command = [sys.executable, str(ROOT / "examples" / "ask_an_hour.py"), "--plot", str(plot)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout and "most relevant: " in done.stdout
    assert plot.stat().st_size > 10_000
