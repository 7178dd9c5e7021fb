"""Folders that are written: nothing of anybody's is lost, whatever the target is, and nothing is left."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tempo_jax.errors import TempoError
from tempo_jax.utils import failures, folders


def native(folder: Path, note: str = "old") -> Path:
    (folder / "params").mkdir(parents=True)
    (folder / "model.json").write_text(
        json.dumps({"format": 1, "kind": "qwen3", "config": {}, "origin": note})
    )
    return folder


def write(target, note="new", **options):
    with folders.atomic_directory(target, **options) as folder:
        (folder / "model.json").write_text(
            json.dumps({"format": 1, "kind": "q", "config": {}, "origin": note})
        )
        (folder / "params").mkdir()


def fail(target, inside=False):
    """A run that is half way when it fails."""
    with folders.atomic_directory(target) as folder:
        assert (folder.parent == target) == inside
        (folder / "half").write_text("")
        raise ZeroDivisionError


def origin(folder: Path) -> str:
    return json.loads((folder / "model.json").read_text())["origin"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_folder_and_its_parents(tmp_path):
    write(tmp_path / "a" / "b" / "c")
    assert names(tmp_path / "a" / "b") == ["c"] and origin(tmp_path / "a" / "b" / "c") == "new"
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path / "x" / "y")
    assert names(tmp_path) == ["a"], "parents that were made for it are gone too"


def test_home_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write("~/model")
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("content", [(), ("lost+found",), (".incomplete",)])
def test_an_empty_folder_is_written_into(tmp_path, content):
    """It stays the same folder: it may be a container's mount or somebody's working directory."""
    target = tmp_path / "model"
    target.mkdir(mode=0o2750)
    for name in content:
        (target / name).mkdir()
    before = target.stat()
    with pytest.raises(ZeroDivisionError):
        fail(target, inside=True)
    assert names(target) == [name for name in content if name != ".incomplete"]
    write(target)
    after = target.stat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert names(target) == [*(n for n in content if n != ".incomplete"), "model.json", "params"]
    assert names(tmp_path) == ["model"]


def test_what_makes_it_load_comes_last(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    moved, rename = [], Path.rename

    def watched(self, target):
        moved.append(self.name)
        if self.name == "model.json":
            raise OSError(28, "No space left on device", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    with pytest.raises(TempoError, match="No space left on device"):
        write(tmp_path / "model")
    assert moved == ["params", "model.json"] and names(tmp_path / "model") == []


def test_overwriting_asks_before_it_takes_what_is_not_ours(tmp_path):
    ours = native(tmp_path / "ours")
    with pytest.raises(TempoError, match="exists already"):
        write(ours)
    write(ours, overwrite=True)
    assert origin(ours) == "new" and names(tmp_path) == ["ours"]
    (ours / "notes.txt").write_text("mine")
    for index in range(6):
        (ours / f"run{index}.log").write_text("mine")
    with pytest.raises(TempoError, match=r"\(notes.txt, run0.log, .* and 2 more\).*--overwrite=force"):
        write(ours, overwrite=True)
    assert (ours / "notes.txt").read_text() == "mine"
    write(ours, overwrite="force")
    assert names(ours) == ["model.json", "params"]
    home = tmp_path / "home"
    (home / "documents").mkdir(parents=True)
    with pytest.raises(TempoError, match=r"did not write \(documents\)"):
        write(home, overwrite=True)
    (tmp_path / "file").write_text("x")
    for overwrite in (False, True, "force"):
        with pytest.raises(TempoError, match="is a file"):
            write(tmp_path / "file", overwrite=overwrite)


def test_a_target_that_appeared_meanwhile_is_kept(tmp_path):
    target = tmp_path / "model"

    def slowly():
        with folders.atomic_directory(target) as folder:
            (folder / "x").write_text("")
            native(target, "of somebody else")

    with pytest.raises(TempoError, match="exists already"):
        slowly()
    assert origin(target) == "of somebody else" and names(tmp_path) == ["model"]


@pytest.mark.parametrize("where", ["{s}", "{s}/new", "{s}/..", "{link}", "{s}/../other/../source"])
def test_a_source_is_never_a_target(tmp_path, where):
    source = native(tmp_path / "hold" / "source")
    (tmp_path / "link").symlink_to(source)
    target = where.format(s=source, link=tmp_path / "link")
    for overwrite in (False, True, "force"):
        with pytest.raises(TempoError, match="what is read"):
            write(target, overwrite=overwrite, keep=[None, source])
    assert origin(source) == "old" and names(tmp_path) == ["hold", "link"]


def test_the_blobs_of_a_hugging_face_cache_are_a_source(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1", tmp_path / "elsewhere" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir(parents=True)
    (blobs / "aa").write_text("weights")
    (snapshot / "model.safetensors").symlink_to(blobs / "aa")
    for target in (blobs, tmp_path / "elsewhere", blobs / "aa"):
        with pytest.raises(TempoError, match="what is read"):
            write(target, overwrite="force", keep=[snapshot])
    assert (blobs / "aa").read_text() == "weights"


def test_what_links_deep_in_a_source_lead_to_is_a_source(tmp_path):
    source, elsewhere = native(tmp_path / "source"), tmp_path / "elsewhere" / "arrays"
    elsewhere.mkdir(parents=True)
    (source / "params" / "d").symlink_to(elsewhere)
    for target in (elsewhere, tmp_path / "elsewhere", elsewhere / "new"):
        with pytest.raises(TempoError, match="what is read"):
            write(target, overwrite="force", keep=[source])
    assert names(tmp_path / "elsewhere") == ["arrays"] and names(elsewhere) == []


def test_a_source_by_another_name_is_a_source(tmp_path):
    """As a file system that ignores upper and lower case gives it, or a bind mount."""
    hold, place = tmp_path / "hold", tmp_path / "place"
    source = native(hold / "source")
    place.mkdir()
    made = subprocess.run(["mount", "--bind", hold, place], capture_output=True)
    if made.returncode:
        pytest.skip(f"a folder cannot be mounted here: {made.stderr.decode().strip()}")
    try:
        for target in (place, place / "source", place / "source" / "new"):
            for overwrite in (False, "force"):
                with pytest.raises(TempoError, match="what is read"):
                    write(target, overwrite=overwrite, keep=[source])
        write(place / "other", keep=[source])
        assert names(hold) == ["other", "source"] and origin(source) == "old"
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_run_that_was_killed_is_taken_up(tmp_path):
    """Half-written files go; a folder that it had put aside comes back."""
    for name in (".model.incomplete", ".model.incomplete/d"):
        (tmp_path / name).mkdir()
    write(tmp_path / "model")
    assert names(tmp_path / "model") == ["model.json", "params"] and names(tmp_path) == ["model"]
    (tmp_path / "model").rename(tmp_path / ".model.replaced")
    with pytest.raises(TempoError, match="exists already"):
        write(tmp_path / "model", "newer")
    assert origin(tmp_path / "model") == "new"


def _slowly(target, ready, go):
    with folders.atomic_directory(target) as folder:
        ready.set()
        go.wait(30)
        (folder / "whole").write_text("")


def test_two_runs_do_not_write_to_one_target(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    first = context.Process(target=_slowly, args=(tmp_path / "model", ready, go))
    first.start()
    assert ready.wait(60)
    with pytest.raises(TempoError, match="another run is writing"):
        write(tmp_path / "model")
    go.set()
    first.join(30)
    assert first.exitcode == 0 and names(tmp_path / "model") == ["whole"] and names(tmp_path) == ["model"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB, mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True)
    if made.returncode:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_mount_point_is_written_inside(small_disk):
    write(small_disk)
    assert origin(small_disk) == "new" and names(small_disk.parent) == ["disk"]
    write(small_disk, "newer", overwrite=True)
    assert origin(small_disk) == "newer" and names(small_disk) == ["model.json", "params"]
    message = r"No space left on device .*free some space"
    with pytest.raises(TempoError, match=message), folders.atomic_directory(small_disk, True) as folder:
        (folder / "big").write_bytes(bytes(2 << 20))
    assert origin(small_disk) == "newer" and names(small_disk) == ["model.json", "params"]


def test_a_bind_mount_too(small_disk, tmp_path):
    (small_disk / "a").mkdir()
    native(small_disk / "b")
    subprocess.run(["mount", "--bind", small_disk / "b", small_disk / "a"], check=True)
    try:
        write(small_disk / "a", overwrite=True)
        assert origin(small_disk / "b") == "new"
    finally:
        subprocess.run(["umount", small_disk / "a"], check=True)


def test_a_read_only_place_is_a_sentence(small_disk):
    native(small_disk / "model")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for target in (small_disk / "new", small_disk / "model", small_disk / "deep" / "er"):
        with pytest.raises(TempoError, match=r"Read-only file system .*choose a place"):
            write(target, overwrite=True)
    assert origin(small_disk / "model") == "old" and names(small_disk) == ["model"]


def test_a_target_that_vanishes_is_a_sentence(tmp_path):
    message = r"No such file or directory .*vanished"
    with pytest.raises(TempoError, match=message), folders.atomic_directory(tmp_path / "model") as folder:
        os.rmdir(folder)
    assert names(tmp_path) == []


def test_help_needs_no_jax():
    modules = "failures, folders, signals"
    code = f"import sys; from tempo_jax.utils import {modules}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("inside", ["", "below"])
def test_a_file_where_a_folder_is_needed_is_named(tmp_path, inside):
    (tmp_path / "file").touch()
    with pytest.raises(TempoError, match=r"file.*: a file stands where a folder"):  # noqa: SIM117
        with failures.report_system_errors():
            (tmp_path / "file" / inside).mkdir()
