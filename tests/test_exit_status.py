"""Exit statuses and the one line on stderr, the same for every command."""

import errno

import pytest

from tempo_jax.cli_options import run, run_on_cpu
from tempo_jax.errors import TempoError

FULL = OSError(errno.ENOSPC, "No space left on device", "a.bin")


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
        (run_on_cpu, FULL, 2, "prog: No space left on device (a.bin)\n"),
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
