"""Evaluation as tasks of a Ray cluster: of this machine where Ray is installed (the extra "ray")."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tempo_jax.errors import TempoError
from tempo_jax.evaluation import on_ray
from tempo_jax.utils import ray_cluster
from tests import benchmark_copies as copies
from tests.eval_runs import REPO
from tests.test_eval_end_to_end import arguments, checkpoints, run  # noqa: F401 (fixtures)

pytestmark = pytest.mark.usefixtures("quick_compilation")


def node(alive=True, **resources) -> dict:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    "nodes, count, options",
    [
        ([node(CPU=4.0)], 1, {"num_cpus": 1, "scheduling_strategy": "SPREAD"}),
        ([node(CPU=4.0), node(CPU=2.0), node(False, CPU=9.0), node(CPU=0.0)], 2, None),
        ([node(CPU=8.0, TPU=8.0), node(CPU=8.0, TPU=4.0), node(CPU=8.0)], 2,
         {"num_cpus": 1, "resources": {"TPU": 4}}),
        ([node(CPU=8.0, GPU=8.0), node(CPU=8.0, GPU=1.0)], 9, {"num_cpus": 1, "num_gpus": 1}),
        ([], 1, None),
    ],
)  # fmt: skip
def test_places_of_tasks(nodes, count, options):
    found = ray_cluster.places(nodes)
    assert found.count == count and (options is None or found.options == options)


def test_ray_is_missed_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(
            TempoError, match=r"--ray needs Ray, which is not installed: pip install -e '\.\[ray\]'"
        ),
        ray_cluster.connected("auto"),
    ):
        pass


def test_other_ways_to_share_the_videos_are_refused(run, tmp_path):  # noqa: F811
    given = [f"--workdir={tmp_path}", "--config=configs/eval_lvbench.py", "--ray=auto"]
    status, _, err = run(*given)  # with --process
    assert status == 2 and "--ray excludes --distributed and --process" in err and err.count("\n") == 1


def test_tasks_of_a_driver_have_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, expected in ((REPO, REPO), (tmp_path / "none", tmp_path)):
        with ray_cluster.folder_of_driver(str(folder)):
            assert Path.cwd() == expected
    assert Path.cwd() == tmp_path


def test_the_tally_is_taken_once():
    tally = on_ray._Tally()
    tally.answered(True)
    assert tally.take() == [True] and tally.take() == []


@pytest.mark.parametrize("system", ["tempo", "xcomp"])
def test_tasks_answer_as_one_process(system, checkpoints, tmp_path):  # noqa: F811
    """Two tasks, one of which is killed after its first answer: the same results, and a row for each."""
    pytest.importorskip("ray", reason="ray is not installed")
    copies.WRITERS["lvbench"](tmp_path / "copy")

    def started(workdir, *options):
        given = arguments(system, "lvbench", checkpoints, tmp_path / "copy", workdir)
        command = [sys.executable, "eval.py", *given, "--config.allow_missing=True", *options]
        return subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    alone = started(tmp_path / "alone")
    said = alone.communicate(timeout=300)
    assert alone.returncode == 3, said
    tasks = started(tmp_path / "tasks", "--ray=local", "--processes=2")
    rows = tmp_path / "tasks" / "rows" / "0.jsonl"
    until = time.monotonic() + 240
    while not (rows.exists() and rows.stat().st_size and (pid := writer_of(rows))):
        assert time.monotonic() < until and tasks.poll() is None, tasks.communicate()
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    said = tasks.communicate(timeout=300)
    assert tasks.returncode == 3, said
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("alone", "tasks")]
    assert reports[0]["results"] == reports[1]["results"]
    hosts = reports[1]["hosts"]
    assert [row["process"] for row in hosts] == [0, 1] and [row["starts"] for row in hosts] == [2, 1]
    assert all(row["ended"] and row["answers_per_minute"] > 0 for row in hosts)
    assert "## Hosts" in (tmp_path / "tasks" / "report.md").read_text()


def writer_of(path: Path) -> int | None:
    """The process that has a file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.resolve() == path.resolve():
                return int(link.parts[2])
        except OSError:
            continue
    return None
