"""Compiled programs are kept between commands, said once, and left alone with --no-cache."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tempo_jax.utils import compilation_cache


@pytest.fixture
def environment(tmp_path):
    """A user's own, without the folder that the tests share."""
    ours = {compilation_cache.FOLDER, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"}
    return {k: v for k, v in os.environ.items() if k not in ours} | {
        "XDG_CACHE_HOME": str(tmp_path / "cache")
    }


def ask(checkpoint, video, environment, *more):
    command = [sys.executable, "-m", "tempo_jax.cli", "ask", video, "What?", "--checkpoint", checkpoint]
    options = ["--max-new-tokens", "2", "--budget", "64", *more]
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def test_ask_keeps_its_programs(tiny_checkpoint, tmp_path, environment):
    video = tmp_path / "video.npy"
    np.save(video, np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8))
    kept = tmp_path / "cache" / "tempo_jax" / "xla"
    without = ask(tiny_checkpoint, video, environment, "--no-cache")
    assert not kept.exists() and "compiled programs" not in without.stderr
    first = ask(tiny_checkpoint, video, environment)
    assert "compiled programs" not in first.stderr and any(kept.iterdir())
    second = ask(tiny_checkpoint, video, environment)
    line = f"compiled programs come from {kept} (--no-cache does without)"
    assert second.stderr.count(line) == second.stderr.count("compiled programs") == 1
    assert without.stdout == first.stdout == second.stdout


def test_a_folder_that_cannot_be_made_is_a_note(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.delenv(compilation_cache.FOLDER)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compilation_cache.turn_on(print)
    assert capsys.readouterr().out.startswith("note: compiled programs are not kept, since ")
    assert compilation_cache.FOLDER not in os.environ


def test_every_command_that_computes_has_the_option():
    from absl import flags

    import eval as evaluation
    import train  # noqa: F401, its flags
    from tempo_jax import cli

    for command in (["ask", "a", "b"], ["batch", "a"], ["serve"]):
        assert "--no-cache" in help_of(cli, command[0])
    assert "no-cache" in flags.FLAGS and "no-cache" in evaluation.FLAGS


def help_of(cli, command):
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as text:
        cli.main([command, "--help"])
    return text.getvalue()
