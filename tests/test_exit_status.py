"""Exit statuses and the one line on stderr, the same for every command."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from tempo_jax.errors import TempoError
from tempo_jax.utils import signals
from tempo_jax.utils.command_line import run, run_on_cpu

FULL = OSError(errno.ENOSPC, "No space left on device", "a.bin")
TENSORSTORE = ValueError(  # as it says it, several calls below Orbax
    'RESOURCE_EXHAUSTED: Error writing "embed/c/0/0" in OCDBT database at local file "/x/": Failed writing: '
    "\"/x/d/e7\": Failed to write 16 bytes to file 18: Disk quota exceeded [os_error_code='122']"
)


@pytest.mark.parametrize(
    "runner, outcome, status, said",
    [
        (run, 0, 0, ""),
        (run, 143, 143, ""),
        (run, TempoError("give a path"), 2, "prog: give a path\n"),
        (run, KeyboardInterrupt(), 130, ""),
        (run, ZeroDivisionError("x\ny"), 1, "prog: internal error: ZeroDivisionError: x (this is a bug"),
        (run, FULL, 1, "prog: internal error: OSError"),
        (run_on_cpu, TempoError("give a path"), 2, "prog: give a path\n"),
        (run_on_cpu, FULL, 2, "prog: No space left on device (a.bin): free some space or choose another pl"),
        (run_on_cpu, TENSORSTORE, 2, "prog: Disk quota exceeded (/x/d/e7): free some of the quota"),
        (run_on_cpu, MemoryError("Unable to allocate 9 GiB"), 2, "prog: the machine has too little memory"),
        (run_on_cpu, KeyboardInterrupt(), 130, "prog: stopped by Ctrl-C; nothing is left of what was being"),
        (run_on_cpu, OSError("odd"), 1, "prog: internal error: OSError: odd"),
    ],
)
def test_statuses(runner, outcome, status, said, capsys, monkeypatch):
    monkeypatch.delenv("TEMPO_JAX_TRACEBACK", raising=False)

    def command():
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    assert runner("prog", command) == status
    err = capsys.readouterr().err
    assert err.startswith(said) and err.count("\n") == (1 if said else 0)


def test_a_bug_shows_where_it_is_when_asked(monkeypatch):
    monkeypatch.setenv("TEMPO_JAX_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        run("prog", lambda: 1 // 0)


def test_a_signal_ends_a_command_in_one_line():
    """Whichever it is; a command that ignores it (nohup) goes on."""
    for number, status in ((signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        before = signal.getsignal(number)

        def command(number=number):
            os.kill(os.getpid(), number)
            return 0

        assert run_on_cpu("prog", command) == status
        assert signal.getsignal(number) is before
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_on_cpu("prog", lambda: os.kill(os.getpid(), signal.SIGHUP) or 0) == 0
    finally:
        signal.signal(signal.SIGHUP, ignored)


def test_a_held_signal_comes_at_the_end_and_a_second_one_at_once():
    reached = []

    def interrupted(times, step):
        with signals.held():
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
            reached.append(step)
        reached.append("outside")

    with pytest.raises(KeyboardInterrupt):
        interrupted(1, "after one")
    with pytest.raises(KeyboardInterrupt):
        interrupted(2, "after two")
    assert reached == ["after one"]


LEAVING = (
    "import atexit, sys, threading\n"
    "from tempo_jax.utils.command_line import leave\n"
    "atexit.register(lambda: print('cleaned'))\n"
    "if sys.argv[2:]: threading.Thread(target=threading.Event().wait, args=(60,)).start()\n"
    "leave(int(sys.argv[1]))\n"
)


@pytest.mark.parametrize("arguments", [("2", "with a thread"), ("143",), ("0",)])
def test_a_failure_does_not_wait_for_threads(arguments):
    """What removes temporary folders still runs."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVING, *arguments], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (int(arguments[0]), "cleaned\n", "")
