"""What the conversion commands share: one-sentence errors, exit statuses, CPU only."""

import argparse
import os
import sys
from collections.abc import Callable

from tempo_jax.errors import TempoError


class Parser(argparse.ArgumentParser):
    """argparse with a one-sentence error instead of a page of usage."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def run(prog: str, command: Callable[[], int]) -> int:
    """Exit status: what `command` returns; 2 a user's mistake, 130 interrupted, 1 a bug of ours."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # converting takes no accelerator from its users
    try:
        return command()
    except TempoError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if not error.strerror:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"{prog}: {error.strerror}{where}", file=sys.stderr)
        return 2
    except Exception as error:
        if os.environ.get("TEMPO_JAX_TRACEBACK"):
            raise
        kind = type(error).__name__
        print(f"{prog}: a bug of ours, {kind}: {error} (TEMPO_JAX_TRACEBACK=1 shows where)", file=sys.stderr)
        return 1
