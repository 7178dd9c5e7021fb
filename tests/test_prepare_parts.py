"""Preparing in parts: by several processes and hosts, killed and gone on with, always the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tempo_jax.data import prepared_set, preparing, shard_files
from tempo_jax.data.builders import PreparedBuilder
from tempo_jax.data.preparation import Settings
from tempo_jax.data.prepare import main, prepare
from tempo_jax.data.records import Encoding, open_prepared
from tempo_jax.errors import TempoError
from tests.poisonous import Task

SMALL = Settings(encoding=Encoding(quality=50), sizes=((32, 32),), max_frames=16)
REELS = ("--minireel=train", "--count=40", "--seconds=8", "--size=32", "--sizes=32x32", "--max-frames=16")


def jobs(count=40, **task):
    """A builder of text examples, without media."""
    options = {"origin": {"numbers": count}, "settings": SMALL}
    return lambda: PreparedBuilder(jobs=range(count), task=Task(SMALL, **task), **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """What one process makes of 40 numbers."""
    target = tmp_path_factory.mktemp("whole") / "set"
    prepare(jobs(), target)
    return target


def test_the_set_is_one_of_tfds_with_a_manifest(whole):
    names = sorted(path.name for path in whole.iterdir())
    files = [f"preparedbuilder-train.array_record-0000{i}-of-00003" for i in range(3)]
    assert names == sorted(
        [*files, "dataset_info.json", "features.json", "frame_counts.json", "manifest.json", "metadata.json",
         "skipped.jsonl"]
    )  # fmt: skip
    assert len(open_prepared(whole)) == 40
    manifest = json.loads((whole / "manifest.json").read_text())
    assert [shard["jobs"] for shard in manifest["shards"]] == [[0, 13], [13, 26], [26, 40]]
    assert sum(shard["samples"] for shard in manifest["shards"]) == 40
    assert all(
        (whole / name).stat().st_size == shard["bytes"] for name, shard in zip(files, manifest["shards"])
    )
    assert manifest["fingerprint"] == open_prepared(whole).fingerprint


def test_hosts_in_any_order_make_the_same_bytes(whole, tmp_path):
    target = tmp_path / "set"
    for host in (2, 0):
        text = prepare(jobs(), target, host=host, hosts=3)
        assert f"the part of host {host} is prepared" in text and not target.exists()
    assert "40 samples prepared (40 text)" in prepare(jobs(), target, host=1, hosts=3)
    assert content(target) == content(whole)
    assert "prepared already" in prepare(jobs(), target, host=0, hosts=3)


def test_one_finishes_what_hosts_have_begun(whole, tmp_path):
    prepare(jobs(), tmp_path / "set", host=1, hosts=3)
    prepare(jobs(), tmp_path / "set", workers=2)
    assert content(tmp_path / "set") == content(whole)


def test_a_job_that_kills_twice_is_named_and_left_out(tmp_path):
    target = tmp_path / "set"
    text = prepare(jobs(poison=(5, 20), once=30, mark=str(tmp_path / "mark")), target, workers=2)
    assert "38 samples prepared" in text and f"2 samples skipped: {shard_files.KILLED} 2" in text
    lines = [json.loads(line) for line in (target / "skipped.jsonl").read_text().splitlines()]
    assert [bad["where"] for bad in lines] == ["record 6", "record 21"]
    assert "killed" in lines[0]["message"]
    ids = [open_prepared(target)._source[i]["id"] for i in range(38)]
    assert b"job-30" in ids and b"job-5" not in ids  # killed once, as by the system, it is tried again


def test_killed_and_started_again_it_is_the_same(tmp_path):
    """All of it, in the middle of a shard: only what was not finished is made again."""
    target, command = tmp_path / "set", [sys.executable, "-m", "tempo_jax.data.prepare", *REELS]
    assert subprocess.run([*command, f"--target={tmp_path / 'whole'}"], timeout=120).returncode == 0
    arguments = [*command, f"--target={target}"]
    parts = tmp_path / ".set.incomplete" / "parts"
    for wanted in (1, 2):
        run = subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while len(list(parts.glob("*.json"))) < wanted and run.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        assert not target.exists() or wanted == 2
    made = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.json")}
    assert subprocess.run(arguments, timeout=120, capture_output=True).returncode == 0
    assert content(target) == content(tmp_path / "whole") and len(made) >= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "whole"]


@pytest.mark.parametrize("how", ["auto", "marker"])
@pytest.mark.parametrize("planned", [True, False])
def test_killed_between_the_merge_and_the_end_nothing_is_made_again(
    how, planned, whole, tmp_path, monkeypatch
):
    """While what only workers need is removed, or after that."""
    target = tmp_path / "set"

    def killed(unfinished):
        shutil.rmtree(unfinished.folder / "parts")
        if not planned:
            (unfinished.folder / "plan.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepared_set.Unfinished, "tidy", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(jobs(), target, commit=how)
    monkeypatch.setattr(preparing, "write", None)  # not called
    assert "40 samples prepared already" in prepare(jobs(), target, commit=how)
    assert content(target) == content(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_another_set_is_not_mixed_in(tmp_path):
    prepare(jobs(), tmp_path / "set", host=0, hosts=3)
    with pytest.raises(TempoError, match="from other records or with other options"):
        prepare(jobs(41), tmp_path / "set", host=1, hosts=3)
    prepare(jobs(41), tmp_path / "set", overwrite=True)
    assert len(open_prepared(tmp_path / "set")) == 41


def test_a_damaged_note_is_a_sentence(tmp_path):
    prepare(jobs(), tmp_path / "set", host=0, hosts=3)
    note = tmp_path / ".set.incomplete" / "parts" / "00000.json"
    note.write_text("{")
    with pytest.raises(TempoError, match=r"00000.json is damaged: delete it"):
        prepare(jobs(), tmp_path / "set")
    note.unlink()
    prepare(jobs(), tmp_path / "set")
    assert len(open_prepared(tmp_path / "set")) == 40


MISTAKES = {
    "--hosts=2 --host=2": "--host is 2: it must be from 0 to 1",
    "--hosts=2 --overwrite": "--overwrite and --hosts exclude each other",
    "--hosts=0": "of at least 1",
    "--target=s3://b/x": "is in s3:// storage",
}


@pytest.mark.parametrize("options, words", MISTAKES.items())
def test_mistakes(options, words, tmp_path, capsys):
    assert main([*REELS, f"--target={tmp_path / 'set'}", *options.split()]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not list(tmp_path.iterdir())


def test_ray_makes_the_same_bytes(whole, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed")
    prepare(jobs(), tmp_path / "set", ray="local")
    assert content(tmp_path / "set") == content(whole)


def test_ray_is_missed_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TempoError, match=r"pip install -e '\.\[ray\]'"):
        prepare(jobs(), tmp_path / "set", ray="auto")
    assert not list(tmp_path.iterdir())


def test_shards_are_shared_out_whole():
    built = jobs(100)()
    shards = [shard.number for host in range(3) for shard in preparing.shards_of(built, host, 3)]
    assert sorted(shards) == list(range(len(built.shards())))
    assert prepared_set.summed([])["counts"] == {}


def test_progress_tells_the_rate_and_what_is_left(monkeypatch, capsys):
    """Of what this run does, not of what an earlier one had done."""
    from tempo_jax.utils import progress

    now = iter([0.0, 0.0, 0.0, 10.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    lines = progress.Lines(per_second="records")
    lines("preparing", 100, 400)
    lines("preparing", 150, 400)
    assert capsys.readouterr().err == "preparing 150/400, 5.0 records/s, 50 s left\n"
