"""The one exception a user's mistake ends in, and what may be well the next time."""


class TempoError(ValueError):
    """Bad input: one sentence that says what is wrong and what to do about it.

    The command line prints it to stderr and exits with status 2; nothing else of ours is ever
    caught there, so a bug still shows its traceback under `TEMPO_JAX_TRACEBACK=1`.
    """

    status = 2


class TryAgain(TempoError):
    """Nobody's mistake: a host that vanished, a process that the system killed. The same command goes on."""

    status = 75  # EX_TEMPFAIL of sysexits.h
