"""Checkpoints that fall back, and what else happens to a working directory in use."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tempo_jax import checkpoint
from tempo_jax.errors import TempoError
from tempo_jax.training import loop, restore, run
from tests import tiny_training
from tests.tiny_training import STEPS, curve, rows

REPO = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """An uninterrupted run with checkpoints of steps 3 and 6."""
    workdir = tmp_path_factory.mktemp("whole")
    assert tiny_training.train(tiny_model, workdir) == loop.FINISHED
    return workdir


@pytest.fixture
def copy(whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir, ignore=shutil.ignore_patterns("model", "tensorboard"))
    return workdir


def flip(path: Path) -> None:
    """One bit of its middle byte."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def arrays(step: Path) -> Path:
    """The largest file of arrays."""
    return max(step.rglob("d/*"), key=lambda path: path.stat().st_size)


DAMAGES = {
    "a bit of an array": (lambda step: flip(arrays(step)), "has not the bytes"),
    "an array cut off": (lambda step: os.truncate(arrays(step), 99), "not the size"),
    "an array emptied": (lambda step: arrays(step).write_bytes(b""), "has not the size"),
    "no arrays": (lambda step: shutil.rmtree(step / "state"), "is missing"),
    "no data state": (lambda step: (step / "data" / "shard_3.json").unlink(), "shard_3.json is missing"),
    "another data state": (lambda step: (step / "data" / "shard_3.json").write_text("{}"), "not the size"),
    "no metadata": (lambda step: (step / "_CHECKPOINT_METADATA").unlink(), "is missing"),
    "digests cut off": (lambda step: os.truncate(step / "digests" / "0.json", 9), "no list of digests"),
    "an empty folder": (lambda step: (shutil.rmtree(step), step.mkdir()), "its metadata"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_not_read(name, tiny_model, copy, capsys):
    damage, how = DAMAGES[name]
    damage(copy / "checkpoints" / "6")
    with run.read_only(tiny_training.config(tiny_model), copy) as found:
        assert found.restored == int(found.state.step) == 3
    told = capsys.readouterr().err
    assert "the checkpoint of step 6 is damaged (" in told and how in told and "step 3 is used" in told
    assert restore.steps(copy) == [6, 3], "a reader moves nothing"
    with pytest.raises(TempoError, match=r"step 6 in .* is damaged .*: put a copy back, or leave out"):
        loop.export(tiny_training.config(tiny_model, fallback=False), copy)


def test_without_digests_what_can_be_read_is_used(tiny_model, copy):
    """As a run that was killed between a save and its digests leaves it, or an older one."""
    shutil.rmtree(copy / "checkpoints" / "6" / "digests")
    with run.read_only(tiny_training.config(tiny_model), copy) as found:
        assert found.restored == 6
    arrays(copy / "checkpoints" / "6").write_bytes(b"")
    with run.read_only(tiny_training.config(tiny_model), copy) as found:
        assert found.restored == 3


def test_a_run_falls_back_and_goes_on_bit_for_bit(tiny_model, whole, copy, capsys):
    for number in (1, 2):  # set aside again under another name
        flip(arrays(copy / "checkpoints" / "6"))
        tiny_training.train(tiny_model, copy)
        assert f"set aside as {copy}/damaged/6" in capsys.readouterr().err
        assert curve(copy) == curve(whole)
        assert len(list((copy / "damaged").iterdir())) == number


def test_where_none_is_whole_nothing_is_begun_anew(tiny_model, copy):
    for step in (3, 6):
        flip(arrays(copy / "checkpoints" / f"{step}"))
    with pytest.raises(TempoError, match=r"is whole \(step 6: .*; step 3: .*\): put a copy back"):
        tiny_training.train(tiny_model, copy)
    assert restore.steps(copy) == [6, 3] and not (copy / "damaged").exists()


@pytest.mark.parametrize("damage", [shutil.rmtree, lambda folder: flip(arrays(folder / "params"))])
def test_frozen_parts_that_are_lost_are_named(damage, tiny_model, copy):
    damage(copy / "frozen")
    with pytest.raises(TempoError, match=r"frozen.*: put a copy of that folder back"):
        tiny_training.train(tiny_model, copy)


def test_a_checkpoint_that_may_not_be_read_is_not_damaged(tiny_model, copy, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied", "a")

    monkeypatch.setattr(restore.ocp, "load_checkpointables", refused)
    with pytest.raises(TempoError, match="cannot be read: Permission denied"):
        tiny_training.train(tiny_model, copy, steps=9)
    assert restore.steps(copy) == [6, 3]


def test_a_first_save_that_was_cut_off_is_no_model(tiny_model, tmp_path):
    cut = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp"
    cut.mkdir(parents=True)
    with pytest.raises(TempoError, match="holds no checkpoint: train first"):
        loop.export(tiny_training.config(tiny_model), tmp_path)
    assert cut.is_dir() and not (tmp_path / "model").exists()


def test_a_live_run_is_exported_and_not_disturbed(tiny_model, whole, tmp_path):
    command = tiny_training.command(tiny_model, tmp_path, "held", {})
    with subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True) as live:
        try:
            unfinished = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp"
            while not (tmp_path / "checkpoints" / "3").exists():
                assert live.poll() is None, live.stderr.read()[-3000:]
                time.sleep(0.05)
            unfinished.mkdir()
            loop.export(tiny_training.config(tiny_model), tmp_path)
            assert checkpoint.read_model_json(tmp_path / "model").origin["step"] == 3
            assert unfinished.is_dir(), "only the owner cleans"
            with pytest.raises(TempoError, match=f"is being trained in by process {live.pid} on "):
                tiny_training.train(tiny_model, tmp_path)
        finally:
            (tmp_path / "go").touch()
            told = live.communicate(timeout=300)[1]
    assert live.returncode == 0, told[-3000:]
    assert curve(tmp_path) == curve(whole)


def test_which_checkpoints_stay(tiny_model, tmp_path):
    tiny_training.train(
        tiny_model,
        tmp_path,
        **{"checkpoint_every": 1, "checkpoints.latest": 1, "checkpoints.every": 2, "steps": 5},
    )
    assert restore.steps(tmp_path) == [5, 4, 2]


@pytest.fixture
def streaks(monkeypatch):
    """Steps of these numbers are not finite."""
    numbers: set[int] = set()
    real = run.jitted_step

    def jitted_step(*args):
        step = real(*args)

        def wrapped(state, frozen, batch):
            state, metrics = step(state, frozen, batch)
            finite = metrics.finite & (int(state.step) not in numbers)
            return state, metrics._replace(finite=finite)

        return wrapped

    monkeypatch.setattr(run, "jitted_step", jitted_step)
    return numbers


def test_nothing_inside_a_streak_is_saved(tiny_model, tmp_path, streaks, capsys):
    streaks.update({3, 4, 6})
    tiny_training.train(tiny_model, tmp_path, max_not_finite=3)
    assert restore.steps(tmp_path) == [5], "that of step 3 waited, that of step 6 is left out"
    assert rows(tmp_path)[-1]["step"] == STEPS
    assert "the last 1 steps were not finite and are not saved" in capsys.readouterr().err


def test_a_streak_goes_on_where_a_run_does(tiny_model, copy, streaks, monkeypatch):
    info = {"config": json.loads((copy / "config.json").read_text()), "not_finite": 2}
    monkeypatch.setattr(restore, "_info", lambda step: info)
    streaks.update({7})
    with pytest.raises(TempoError, match="3 steps in a row, up to step 7, were not finite"):
        tiny_training.train(tiny_model, copy, steps=9, max_not_finite=3)


def test_digests_are_taken_of_every_file(whole):
    step = whole / "checkpoints" / "6"
    said = json.loads((step / "digests" / "0.json").read_text())
    files = {path.relative_to(step).as_posix() for path in step.rglob("*") if path.is_file()}
    assert said["parts"] == 1 and said["files"].keys() == files - {"digests/0.json"}
    assert restore.verify(step)
