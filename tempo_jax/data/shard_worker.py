"""A process that writes shards, one after the other, as it is told through a connection; may be killed.

Started as `python -m tempo_jax.data.shard_worker DESCRIPTOR`, not forked nor by multiprocessing: it inherits
nothing, and no matter what the first process's main module is (of a Ray worker, say).
"""

import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

DONE, AT, FAILED, READY = "done", "at", "failed", "ready"


def serve(connection: Connection) -> None:
    """Receives the recipe, then (path, shard) again and again until the other end is closed."""
    from tempo_jax.data import shard_files
    from tempo_jax.errors import TempoError
    from tempo_jax.utils import failures

    recipe = connection.recv()
    connection.send((READY, None))
    while True:
        try:
            path, shard = connection.recv()
        except EOFError:
            return
        try:
            with failures.report_system_errors(path):
                note = shard_files.write(Path(path), recipe, shard, lambda at: connection.send((AT, at)))
            connection.send((DONE, note))
        except TempoError as error:
            connection.send((FAILED, str(error)))
        except RuntimeError as error:  # array_record knows no other
            connection.send((FAILED, _refused(error, path)))


def _refused(error: RuntimeError, path: str) -> str:
    _, found, rest = str(error).partition("failed: ")
    if not found:
        raise error
    return f"{Path(path).parent} cannot be written: {rest.partition('; writing')[0]}; choose another place."


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first process ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    serve(Connection(int(sys.argv[1])))
