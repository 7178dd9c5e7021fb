"""Folders that become complete by a file that is written last, where no folder can be renamed."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from convert import from_hf, to_hf
from tempo_jax import checkpoint
from tempo_jax.data import prepare as prepare_module
from tempo_jax.data.prepare import prepare
from tempo_jax.data.records import open_prepared
from tempo_jax.errors import TempoError
from tempo_jax.evaluation import model
from tempo_jax.utils import commit, folders, mounts, paths
from tempo_jax.utils.commit import by_marker
from tests import benchmark_copies as copies
from tests import eval_runs, tiny_checkpoints, tiny_training
from tests.test_prepare_parts import REELS, content, jobs

pytestmark = pytest.mark.usefixtures("quick_compilation")
MOUNTS = (
    "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
    "30 22 0:40 / /mnt/a\\040bucket rw,nosuid - fuse.gcsfuse bucket rw\n"
    "31 22 0:41 / /mnt/nfs rw - nfs4 host:/share rw\n"
)


@pytest.fixture
def no_folder_is_renamed(monkeypatch, tmp_path):
    """As if `tmp_path` were on a mount of a bucket without folders: each rename of one is refused."""

    def refused(rename):
        def checked(source, target, **options):
            if os.path.isdir(source) and Path(source).is_relative_to(tmp_path):
                text = os.strerror(errno.EMFILE)
                raise OSError(errno.EMFILE, text, os.fspath(source), None, os.fspath(target))
            return rename(source, target, **options)

        return checked

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, refused(getattr(os, name)))


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    return tiny_checkpoints.write_llm(tmp_path_factory.mktemp("hf") / "hf", vocab=64)


def tree(folder) -> dict[str, np.ndarray]:
    from tempo_jax.utils.tree import flatten

    return {name: np.asarray(x) for name, x in flatten(checkpoint.load_params(folder)).items()}


def assert_same_model(one, other) -> None:
    ours, theirs = tree(one), tree(other)
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert (one / "model.json").read_bytes() == (other / "model.json").read_bytes()
    assert not (other / folders.INCOMPLETE).exists()


@pytest.mark.parametrize(
    "path, expected",
    [
        ("/mnt/a bucket/run", True),
        ("/mnt/a bucket", True),
        ("/mnt/a bucket too", False),
        ("/mnt/nfs/run", False),
        ("/data", False),
        ("gs://bucket/x", True),
    ],
)
def test_mounts_of_buckets_are_known(path, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "mountinfo")
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert by_marker(path) == expected and by_marker(path, commit.MARKER)
    if not path.startswith("gs://"):
        assert mounts.may_map(path) == (not expected and "nfs" not in path)


def test_conversion_both_ways(hf, tmp_path, no_folder_is_renamed):
    with pytest.raises(TempoError, match="folders are not renamed there; give --commit=marker") as caught:
        from_hf.convert("qwen3", hf, tmp_path / "refused")
    assert "\n" not in str(caught.value)
    options = ["--commit=marker", f"--target={tmp_path / 'native'}"]
    assert from_hf.main(["--model=qwen3", f"--source={hf}", *options]) == 0
    assert to_hf.main([f"--source={tmp_path / 'native'}", f"--target={tmp_path / 'back'}", options[0]]) == 0
    assert not list(tmp_path.glob("*/.incomplete"))


def test_conversion_gives_the_same(hf, tmp_path):
    for name, how in (("renamed", commit.AUTO), ("marked", commit.MARKER)):
        from_hf.convert("qwen3", hf, tmp_path / name, commit=how)
        to_hf.convert(tmp_path / name, tmp_path / f"{name}-hf", commit=how)
    assert_same_model(tmp_path / "renamed", tmp_path / "marked")
    assert paths.files(tmp_path / "renamed").keys() - {"digests.json"} >= {"model.json"}
    assert content(tmp_path / "renamed-hf") == content(tmp_path / "marked-hf")


def test_what_was_begun_does_not_load_and_is_begun_again(hf, tmp_path):
    """As a SIGKILL leaves it: everything but the file that makes it load."""
    target = tmp_path / "native"
    from_hf.convert("qwen3", hf, target, commit=commit.MARKER)
    (target / "model.json").unlink()
    (target / folders.INCOMPLETE).touch()
    with pytest.raises(TempoError, match=r"holds no model\.json"):
        checkpoint.read_model_json(target)
    from_hf.convert("qwen3", hf, target, commit=commit.MARKER)
    assert tree(target)
    with pytest.raises(TempoError, match="exists already"):
        from_hf.convert("qwen3", hf, target, commit=commit.MARKER)
    from_hf.convert("qwen3", hf, target, commit=commit.MARKER, overwrite=True)
    assert tree(target)


def test_a_failure_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "model.json").write_text("{}")
        raise ZeroDivisionError

    with (
        pytest.raises(ZeroDivisionError),
        folders.atomic_directory(tmp_path / "a" / "b", commit=commit.MARKER) as folder,
    ):
        fail(folder)
    assert not list(tmp_path.iterdir())


def test_what_makes_a_folder_load_goes_first_and_comes_last(tmp_path, monkeypatch):
    target, seen = tmp_path / "set", []
    target.mkdir()
    for name in ("a", "model.json", "z"):
        (target / name).write_text("x")
    remove = folders._remove
    monkeypatch.setattr(folders, "_remove", lambda path: (seen.append(path.name), remove(path)))
    with folders.atomic_directory(target, folders.FORCE, commit=commit.MARKER) as folder:
        assert [path.name for path in folder.iterdir()] == [folders.INCOMPLETE]
    assert seen[0] == "model.json" and set(seen) == {"a", "model.json", "z"}
    source = tmp_path / "source"
    source.mkdir()
    for name in ("z", "a", "model.json"):
        (source / name).write_text(name)
    order: list[int] = []
    paths.put(source, target, ("model.json",), lambda stage, done, total: order.append(done))
    assert order == [1, 2, 12] and content(target) == content(source)


def test_two_runs_do_not_write_one_folder(tmp_path):
    with (
        folders.atomic_directory(tmp_path / "x", commit=commit.MARKER),
        pytest.raises(TempoError, match="another run is writing"),
        folders.atomic_directory(tmp_path / "x", folders.FORCE, commit=commit.MARKER),
    ):
        pass


@pytest.mark.parametrize("how", commit.COMMITS)
def test_the_plan_of_a_run_in_progress_stays(how, tmp_path):
    with folders.put_together(tmp_path / "set", shared=False, commit=how) as (folder, _):
        (folder / "plan.json").write_text('{"identity": "", "shards": 1}')
        with pytest.raises(TempoError, match="another run is writing"):
            prepare(jobs(), tmp_path / "set", commit=how)
        assert (folder / "plan.json").is_file()


def test_a_prepared_set(tmp_path, no_folder_is_renamed):
    options = {"commit": commit.MARKER}
    assert "the part of host 1" in prepare(jobs(), tmp_path / "set", host=1, hosts=2, **options)
    with pytest.raises(TempoError, match="is not a prepared data set"):
        open_prepared(tmp_path / "set")
    prepare(jobs(), tmp_path / "set", **options)
    assert "prepared already" in prepare(jobs(), tmp_path / "set", **options)
    assert len(open_prepared(tmp_path / "set")) == 40
    with pytest.raises(TempoError, match="exists already"):
        prepare(jobs(41), tmp_path / "set", **options)
    prepare(jobs(41), tmp_path / "set", overwrite=True, **options)
    assert len(open_prepared(tmp_path / "set")) == 41
    with pytest.raises(TempoError, match="give --commit=marker"):
        prepare(jobs(), tmp_path / "refused")


def test_a_plan_of_somebody_else_is_not_replaced(tmp_path):
    (tmp_path / "plan.json").write_text('{"trips": 3}')
    for overwrite in (False, True):
        with pytest.raises(TempoError, match=r"exists already|holds what tempo_jax did not write"):
            prepare(jobs(), tmp_path, commit=commit.MARKER, overwrite=overwrite)
    assert content(tmp_path) == {"plan.json": b'{"trips": 3}'}


def test_a_prepared_set_is_the_same(tmp_path):
    prepare(jobs(), tmp_path / "renamed")
    prepare(jobs(), tmp_path / "marked", commit=commit.MARKER)
    assert content(tmp_path / "renamed") == content(tmp_path / "marked")


def test_the_set_loads_by_what_is_written_last(tmp_path, monkeypatch):
    """Also where the folder is renamed: nobody has to trust in that."""
    from tempo_jax.data import prepared_set

    order = []
    write = paths.write_text
    monkeypatch.setattr(paths, "write_text", lambda path, text: (order.append(path.name), write(path, text)))
    describe = prepared_set._describe

    def described(folder, *rest):
        there = {path.name for path in folder.iterdir()}
        assert {"manifest.json", "frame_counts.json"} <= there and prepared_set.INFO not in there
        describe(folder, *rest)
        order.append(prepared_set.INFO)

    monkeypatch.setattr(prepared_set, "_describe", described)
    prepare(jobs(), tmp_path / "set")
    assert order[-1] == prepared_set.INFO


def test_the_command_takes_it(tmp_path, no_folder_is_renamed, capsys):
    arguments = [*REELS, f"--target={tmp_path / 'set'}"]
    assert prepare_module.main(arguments) == 2
    assert "give --commit=marker" in capsys.readouterr().err
    assert prepare_module.main([*arguments, "--commit=marker"]) == 0


def test_an_evaluation_renames_no_folder(tmp_path, demo_tokenizer_dir, monkeypatch, no_folder_is_renamed):
    """In parts, killed and continued or not: rows are appended, and single files replaced."""
    monkeypatch.setattr(model, "load", lambda config: eval_runs.FakeTempo())
    copies.WRITERS["mlvu"](tmp_path / "copy")
    folder = eval_runs.checkpoint(tmp_path / "checkpoint", demo_tokenizer_dir)
    config = eval_runs.config_of("mlvu", tmp_path / "copy", folder)
    assert "answers of the other 1 are missing" in eval_runs.evaluate(config, tmp_path / "eval", 0, 2)[0]
    assert "The report" in eval_runs.evaluate(config, tmp_path / "eval", 1, 2)[-1]
    assert not list((tmp_path / "eval").rglob("*.incomplete"))


def test_training_from_start_to_model(tiny_model, tmp_path, no_folder_is_renamed):
    """A built-in tokenizer, frozen parameters, steps, a damaged one and the model."""
    changes = {"commit": "marker", "learning_rate.llm": 0.0}
    assert tiny_training.train(tiny_model, tmp_path / "run", **changes) == "finished"
    for name in ("frozen", "model"):
        assert checkpoint.read_model_json(tmp_path / "run" / name) and tree(tmp_path / "run" / name)
    assert not list((tmp_path / "run").rglob("*.incomplete"))
    manifest = next((tmp_path / "run" / "checkpoints" / "6" / "state").glob("manifest*"))
    manifest.write_bytes(b"x")
    assert tiny_training.train(tiny_model, tmp_path / "run", **changes, steps=7) == "finished"
    assert next((tmp_path / "run" / "damaged" / "6" / "state").glob("manifest*")).read_bytes() == b"x"
    assert json.loads((tmp_path / "run" / "model" / "model.json").read_text())["origin"]["step"] == 7


def test_training_gives_the_same_model(tiny_model, tmp_path):
    for how in commit.COMMITS:
        assert tiny_training.train(tiny_model, tmp_path / how, commit=how, steps=1) == "finished"
    ours, theirs = (tree(tmp_path / how / "model") for how in commit.COMMITS)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
