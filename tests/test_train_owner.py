"""A working directory has one owner, also across hosts whose locks do not reach each other."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tempo_jax.errors import TempoError, TryAgain
from tempo_jax.training import owner
from tempo_jax.training.owner import Owner

HOLD = """
import sys, time
from pathlib import Path
from tempo_jax.training.owner import Owner
with Owner(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def soon(monkeypatch):
    """Owners elsewhere are taken for dead after a second."""
    monkeypatch.setattr(owner, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(owner, "BEAT_SECONDS", 0.1)


def elsewhere(workdir, **changes):
    values = {"host": "other-host", "process": 7, "since": "noon", "token": "t", "ended": False} | changes
    (workdir / owner.FILE).write_text(json.dumps(values))


def test_a_second_owner_is_refused_with_the_first_ones_name(tmp_path):
    named = rf"is being trained in by process {os.getpid()} on .* since 20"
    with Owner(tmp_path), pytest.raises(TempoError, match=named):
        Owner(tmp_path).__enter__()
    with Owner(tmp_path):
        pass  # the first one has ended


def test_a_killed_owner_leaves_nothing_to_wait_for(tmp_path):
    held = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert held.stdout.readline() == "held\n"
        with pytest.raises(TempoError, match=f"process {held.pid} on"):
            Owner(tmp_path).__enter__()
    finally:
        held.send_signal(signal.SIGKILL)
        held.communicate()
    began = time.monotonic()
    with Owner(tmp_path):
        assert time.monotonic() - began < owner.PATIENCE_SECONDS / 2
    assert owner.read(tmp_path)["ended"]


def test_an_owner_on_another_host_lives_as_long_as_it_beats(tmp_path, soon, capsys):
    elsewhere(tmp_path)
    stop = threading.Event()

    def beat():
        while not stop.wait(0.1):
            os.utime(tmp_path / owner.FILE)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(TempoError, match="is being trained in by process 7 on other-host since noon"):
            Owner(tmp_path).__enter__()
    finally:
        stop.set()
        thread.join()
    with Owner(tmp_path) as mine:
        assert owner.read(tmp_path)["token"] == mine.token
    assert "looking for 1 s whether it is alive" in capsys.readouterr().err


def test_an_owner_that_said_that_it_ended_is_not_waited_for(tmp_path):
    elsewhere(tmp_path, ended=True)
    with Owner(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": null}'])
def test_a_file_that_says_nothing_is_not_believed(tmp_path, soon, text):
    (tmp_path / owner.FILE).write_text(text)
    with Owner(tmp_path) as mine:
        assert owner.read(tmp_path)["token"] == mine.token


def test_file_systems_without_locks_have_beats(tmp_path, soon, monkeypatch):
    monkeypatch.setattr(owner, "lock", lambda descriptor: None)
    with Owner(tmp_path), pytest.raises(TempoError, match=f"process {os.getpid()}"):
        Owner(tmp_path).__enter__()
    with Owner(tmp_path) as mine:
        elsewhere(tmp_path)
        with pytest.raises(TryAgain, match="was taken over by process 7 on other-host"):
            mine.check()
    assert owner.read(tmp_path)["token"] == "t"  # not written over
