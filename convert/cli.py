"""What the conversion commands share: exit statuses and one-sentence errors, CPU only."""

import os
from collections.abc import Callable

from tempo_jax.cli_options import Parser, bug, say
from tempo_jax.errors import TempoError

__all__ = ["Parser", "run"]


def run(prog: str, command: Callable[[], int]) -> int:
    """Exit status: what `command` returns; 2 a user's mistake, 130 interrupted, 1 a bug of ours."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # converting takes no accelerator from its users
    try:
        return command()
    except TempoError as error:
        say(f"{prog}: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:  # no space left, no permission, …
            say(f"{prog}: {error.strerror}" + (f" ({error.filename})" if error.filename else ""))
            return 2
        if os.environ.get("TEMPO_JAX_TRACEBACK"):
            raise
        say(f"{prog}: {bug(error)}")
        return 1
