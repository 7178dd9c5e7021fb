"""Two processes on loopback train as one, stop together, and one alone goes on."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tempo_jax.training import loop
from tests import tiny_training
from tests.systems import relative
from tests.tiny_training import SHARDS, curve

REPO = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("quick_compilation")


def start(tiny_model, workdir, hook="", **changes):
    """Two processes of two devices each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    commands = [tiny_training.command(tiny_model, workdir, hook, changes, address, rank) for rank in range(2)]
    return [
        subprocess.Popen(command, cwd=REPO, env=environment, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]


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
    assert "which is saved: the same command goes on" in results[0][1]
    assert "step" not in results[1][1], "process 0 speaks for all"
    saved = max(int(folder.name) for folder in (workdir / "checkpoints").iterdir())
    files = {path.name for path in (workdir / "checkpoints" / str(saved) / "data").glob("*.json")}
    assert files == {f"shard_{shard}.json" for shard in range(SHARDS)}
    assert len(curve(workdir)) == saved < tiny_training.STEPS
    # One process, one device: another mesh and another number of hosts.
    assert tiny_training.train(tiny_model, workdir) == loop.FINISHED
    tiny_training.train(tiny_model, whole)
    assert relative(curve(workdir), curve(whole)) < 1e-5
