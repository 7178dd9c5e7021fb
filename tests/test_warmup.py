"""Warming up fills a cache folder and says what it lacks."""

import os
import subprocess
import sys

import pytest

from tempo_jax import cli
from tempo_jax.utils import compilation_cache


def test_what_is_wrong_is_a_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(compilation_cache.FOLDER, os.environ[compilation_cache.FOLDER])  # which --cache sets
    assert cli.main(["warmup", "--cache=x", "--size=720p"]) == 2
    assert "HEIGHTxWIDTH" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert cli.main(["warmup", f"--cache={tmp_path}/file/x"]) == 2
    assert "cannot be made" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="paths of a POSIX shell")
def test_the_programs_of_a_question_are_in_the_folder(tiny_checkpoint, tmp_path):
    """In a process of its own, which has the cache from its start."""
    command = [sys.executable, "-m", "tempo_jax.cli", "warmup", f"--checkpoint={tiny_checkpoint}"]
    command += ["--size=128x128", "--frames=8", "--budget=64", "--max-new-tokens=2"]
    ours = {compilation_cache.FOLDER, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {"XLA_FLAGS": "", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    usual = tmp_path / "tempo_jax" / "xla"  # where `tempo ask` looks, too
    assert f"the compiled programs are in {usual}; later commands use it" in done.stderr
    kept = {path.name.split("-")[0] for path in usual.iterdir()}
    expected = {"jit_encode_frames", "jit_prefill_video", "jit_compress_chunk", "jit_prefill", "jit_decode"}
    assert expected <= kept
