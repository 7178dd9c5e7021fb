"""Errors that end a command in one line: invalid input, and failures that rerunning the command may pass."""


class TempoError(ValueError):
    """Invalid input: a one-line message that says what is wrong and what to do about it.

    The command line prints it to stderr and exits with status 2. It catches no other error, so an internal
    error still shows its traceback under `TEMPO_JAX_TRACEBACK=1`.
    """

    status = 2


class TryAgain(TempoError):
    """A failure that is not of the input, as a lost host or a killed process; rerun the command to resume."""

    status = 75  # EX_TEMPFAIL of sysexits.h
