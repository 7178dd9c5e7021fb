"""Warming up fills a cache folder and says what it lacks."""

import os
import subprocess
import sys

import pytest

from tempo_jax import cli
from tempo_jax.cli import warmup


def test_what_is_missing_is_a_sentence(monkeypatch, capsys):
    monkeypatch.delenv(warmup.CACHE, raising=False)
    assert cli.main(["warmup"]) == 2
    assert "give --cache DIR" in capsys.readouterr().err
    assert cli.main(["warmup", "--cache=x", "--size=720p"]) == 2
    assert "HEIGHTxWIDTH" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="paths of a POSIX shell")
def test_the_programs_of_a_question_are_in_the_folder(tiny_checkpoint, tmp_path):
    """In a process of its own, which has the cache from its start."""
    command = [sys.executable, "-m", "tempo_jax.cli", "warmup", f"--checkpoint={tiny_checkpoint}"]
    command += [f"--cache={tmp_path}", "--size=128x128", "--frames=8", "--budget=64", "--max-new-tokens=2"]
    environment = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{warmup.CACHE}={tmp_path}" in done.stderr
    kept = {path.name.split("-")[0] for path in tmp_path.iterdir()}
    assert {"jit_see", "jit_read_prefix", "jit_compress", "jit_prefill", "jit_advance"} <= kept
