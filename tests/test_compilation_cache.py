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


PROGRAM = """
import sys
from tempo_jax.utils import compilation_cache
compilation_cache.turn_on(print)
import jax, jax.numpy as jnp
print(float(jax.jit(lambda x: jnp.sin(x @ x).sum())(jnp.ones((8, 8)))), compilation_cache.counts.hits)
"""


def compute(environment, tmp_path, shell=""):
    """What a program prints, and how many programs came from the cache; `shell` goes before it."""
    environment = environment | {
        compilation_cache.FOLDER: str(tmp_path / "kept"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = ["bash", "-c", f'{shell}\nexec "$0" "$@"', sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.splitlines()


def test_entries_that_are_cut_off_or_damaged_are_made_anew_without_a_word(environment, tmp_path):
    result = compute(environment, tmp_path)[-1].split()[0]
    entries = sorted((tmp_path / "kept").iterdir())
    whole = [path.read_bytes() for path in entries]
    assert entries and all(path.name.endswith("-cache") for path in entries)
    for damage in (lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:-9] + bytes(9)):
        for path, data in zip(entries, whole, strict=True):
            path.write_bytes(damage(data))
        assert compute(environment, tmp_path)[-1] == f"{result} 0"
        assert compute(environment, tmp_path)[-1] == f"{result} {len(entries)}"
    assert sorted((tmp_path / "kept").iterdir()) == entries


def test_a_full_disk_is_one_note_and_leaves_nothing(environment, tmp_path):
    told = compute(environment, tmp_path, shell="ulimit -f 0")
    assert [line for line in told if "not kept" in line] == [
        f"note: compiled programs are not kept in {tmp_path / 'kept'} (File too large)"
    ]
    assert list((tmp_path / "kept").iterdir()) == []


def test_what_was_not_used_for_longest_is_deleted_first(tmp_path):
    from tempo_jax.utils import whole_entries

    for number, name in enumerate(("a", "b", "c")):
        (tmp_path / f"{name}-cache").write_bytes(bytes(100))
        os.utime(tmp_path / f"{name}-cache", (number, number))
    (tmp_path / "other").write_bytes(bytes(1000))
    whole_entries._mark_used(tmp_path / "a-cache")
    whole_entries.trim(tmp_path, 200)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-cache", "c-cache", "other"]
    whole_entries.trim(tmp_path / "missing", 0)


def test_programs_are_for_one_kind_of_cpu(monkeypatch):
    """A home folder that hosts share."""
    from jax._src import cache_key

    from tempo_jax.utils import whole_entries

    compilation_cache.turn_on(print)
    assert cache_key.custom_hook() == whole_entries.instructions()
    here = whole_entries.instructions()
    monkeypatch.setattr("platform.machine", lambda: "another")
    assert whole_entries.instructions() != here
