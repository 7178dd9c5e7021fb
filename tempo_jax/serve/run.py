"""Running the server: sockets, signals, a clean end."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from tempo_jax.errors import TempoError
from tempo_jax.serve.service import Service

GRACE_SECONDS = 10.0  # for answers under way when the server is told to stop


class _Server(uvicorn.Server):
    """uvicorn's, whose end is the service's too.

    On SIGTERM or SIGINT nothing new is taken, waiting questions are told, answers under way get
    `grace` seconds; then they end with a sentence.
    """

    def __init__(self, config: uvicorn.Config, service: Service, grace: float):
        super().__init__(config)
        self._service, self._grace = service, grace

    def handle_exit(self, sig: int, frame: Any) -> None:
        # Not in the signal handler itself: it may have interrupted a thread that holds a lock.
        threading.Thread(target=self._service.close, args=(self._grace,), daemon=True).start()
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises the signals again at the end; an orderly end is a success here."""
        with super().capture_signals():
            try:
                yield
            finally:
                self._captured_signals.clear()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; TempoError where there can be none. Port 0 takes a free one."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TempoError(
            f"Cannot listen on {host} port {port} ({reason}): choose others with --host and --port."
        ) from error
    sock.listen(128)
    return sock


def serve(guarded: Any, service: Service, sock: socket.socket, grace: float = GRACE_SECONDS) -> None:
    """Serves until SIGTERM or SIGINT, then ends in order."""
    server = _Server(config(guarded, grace), service, grace)
    try:
        asyncio.run(server.serve(sockets=[sock]))
    finally:
        service.close()


def config(guarded: Any, grace: float) -> uvicorn.Config:
    return uvicorn.Config(
        guarded,
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=int(grace) + 2,
        h11_max_incomplete_event_size=64 << 10,
        server_header=False,
    )


@contextlib.contextmanager
def running(guarded: Any, service: Service, host: str = "127.0.0.1") -> Iterator[str]:
    """The server in a thread, for tests and notebooks; yields its address."""
    sock = listen(host, 0)
    server = uvicorn.Server(config(guarded, 1.0))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])), daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{sock.getsockname()[1]}"
    finally:
        service.drain()
        server.should_exit = True
        thread.join()
        service.close()
