"""Two processes on loopback train as one, stop together, and one alone goes on."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tempo_jax.training import loop
from tests import tiny_training
from tests.systems import relative
from tests.tiny_training import SHARDS, curve

REPO = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("quick_compilation")


def start(tiny_model, workdir, hook="", *, ranks=(0, 1), folders=(None, None), of_1=None, **changes):
    """Two processes of two devices each; in `folders`, process 1 with further changes `of_1`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    environment["PYTHONPATH"] = str(REPO)
    children = []
    for rank in ranks:
        values = changes | (of_1 or {} if rank == 1 else {})
        command = tiny_training.command(tiny_model, workdir, hook, values, address, rank)
        where = folders[rank] or REPO
        children.append(
            subprocess.Popen(command, cwd=where, env=environment, stderr=subprocess.PIPE, text=True)
        )
    return children


def finish(children):
    """Exit status and what was said on stderr, of each."""
    try:
        told = [child.communicate(timeout=300)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    return [(child.returncode, text) for child, text in zip(children, told, strict=True)]


def test_two_processes_are_one_and_stop_together(tiny_model, tmp_path):
    whole, workdir = tmp_path / "whole", tmp_path / "pair"
    children = start(tiny_model, workdir, "slow", **{"mesh.fsdp": 4})
    log = workdir / "log.jsonl"
    try:
        while not (log.exists() and log.read_text().count("\n") >= 2):
            assert all(child.poll() is None for child in children), finish(children)
            time.sleep(0.05)
        children[1].send_signal(signal.SIGTERM)
    finally:
        results = finish(children)
    assert [status for status, _ in results] == [143, 143], results[0][1][-3000:] + results[1][1][-3000:]
    assert "Rerun the same command to resume" in results[0][1]
    assert "step" not in results[1][1], "process 0 speaks for all"
    saved = max(int(folder.name) for folder in (workdir / "checkpoints").iterdir())
    files = {path.name for path in (workdir / "checkpoints" / str(saved) / "data").glob("*.json")}
    assert files == {f"shard_{shard}.json" for shard in range(SHARDS)}
    assert len(curve(workdir)) == saved < tiny_training.STEPS
    # One process, one device: another mesh and another number of hosts.
    assert tiny_training.train(tiny_model, workdir) == loop.FINISHED
    tiny_training.train(tiny_model, whole)
    assert relative(curve(workdir), curve(whole)) < 1e-5


def test_two_processes_validate_and_answer_as_one(tiny_model, tmp_path):
    """Loss and generated answers, on a mesh that no process has alone; the pictures come from process 0."""
    np.save(tmp_path / "video.npy", np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8))
    questions = [{"video": str(tmp_path / "video.npy"), "question": "What?"}]
    source = [{"kind": "prepared", "path": "elsewhere"}]
    validation = {"every": 3, "sources": source, "batches": 1, "questions": questions, "max_new_tokens": 3}
    changes = {"mesh.fsdp": 4} | {f"validation.{name}": value for name, value in validation.items()}
    pair, alone = tmp_path / "pair", tmp_path / "alone"
    results = finish(start(tiny_model, pair, **changes))
    assert [status for status, _ in results] == [0, 0], results[0][1][-3000:] + results[1][1][-3000:]
    tiny_training.train(tiny_model, alone, **(changes | {"mesh.fsdp": 1}))
    ours, theirs = (
        [json.loads(line) for line in (workdir / "validation.jsonl").read_text().splitlines()]
        for workdir in (pair, alone)
    )
    assert [row["step"] for row in ours] == [3, 6]
    for row, other in zip(ours, theirs, strict=True):
        assert row["answers"] == other["answers"] and len(row["answers"]) == 1
        assert row["validation_loss"] == pytest.approx(other["validation_loss"], rel=1e-5)
        assert row["validation_tokens"] == other["validation_tokens"]
    (events,) = (pair / "tensorboard").glob("events*")
    assert events.read_bytes().count(b"answers/0/video") == 1


AGAIN = "rerun the same command on every host to resume"
# Of one process: (hook, status of both, what process 0 or, where it is gone, process 1 says).
ERRORS = {
    "mistake_on_1": (2, "train: process 1: the data set is missing: copy it to every host"),
    "full_disk_on_1": (2, "could not be written because the disk is full"),
    "kill_1": (75, f"process 1 ended without an error message (killed, or its host is gone): {AGAIN}"),
    "kill_0": (75, f"process 0 ended without an error message (killed, or its host is gone): {AGAIN}"),
    "hang_on_1": (75, "process 1 (waits for its data) has not finished step 3 for 8 s: run the same"),
}


@pytest.mark.parametrize("hook", ERRORS)
def test_an_error_of_one_ends_both_with_its_sentence(hook, tiny_model, tmp_path):
    status, sentence = ERRORS[hook]
    limits = {"watchdog.say": 2.0, "watchdog.stop": 8.0} if hook == "hang_on_1" else {}
    results = finish(start(tiny_model, tmp_path, hook, **{"mesh.fsdp": 4}, **limits))
    killed = -signal.SIGKILL
    expected = {"kill_1": [75, killed], "kill_0": [killed, 75]}.get(hook, [status, status])
    assert [found for found, _ in results] == expected, results[0][1][-3000:] + results[1][1][-3000:]
    told = results[1 if hook == "kill_0" else 0][1]
    assert sentence in told
    for _, text in results:
        for page in ("Traceback", "bug", "Check failure", "absl::", "grpc"):
            assert page not in text, text[-3000:]


@pytest.mark.parametrize(
    "difference, sentence",
    [
        ({"of_1": {"learning_rate.llm": 2e-3}}, "process 1 was started otherwise (config.learning_rate.llm "),
        ({"folders": ("a", "b")}, "process 1 does not see what process 0 writes to "),
        ({"ranks": (0,)}, "the other processes did not all come: start the command on every host"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_said_before_the_first_step(difference, sentence, tiny_model, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    if "folders" in difference:  # the same path, on two disks
        difference = {"folders": (tmp_path / "a", tmp_path / "b"), "mesh.fsdp": 4}
    results = finish(start(tiny_model, "run" if "folders" in difference else tmp_path / "run", **difference))
    assert {status for status, _ in results} == {75 if "ranks" in difference else 2}, results
    assert sentence in results[0][1] and "step 1/" not in results[0][1]
