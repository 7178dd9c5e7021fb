"""Worker process of `supervised`: writes the shards that it receives over a connection.

Started as `python -m tempo_jax.data.shard_worker DESCRIPTOR` rather than by multiprocessing: it inherits no
threads or locks, and works whatever the parent's main module is (that of a Ray worker, for example).
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
        except RuntimeError as error:  # the only error that array_record raises
            connection.send((FAILED, _refused(error, path)))


def _refused(error: RuntimeError, path: str) -> str:
    _, found, rest = str(error).partition("failed: ")
    if not found:
        raise error
    return f"{Path(path).parent} cannot be written: {rest.partition('; writing')[0]}; choose another place."


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the group; the parent ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    serve(Connection(int(sys.argv[1])))
