"""Running the server: sockets, signals, a clean end."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from tempo_jax.errors import TempoError
from tempo_jax.serve import decoder, protocol
from tempo_jax.serve.service import Service

GRACE_SECONDS = 10.0  # for running requests when the server stops
LEAVE_SECONDS = 1.0  # after that, for all to be told and closed
SPARE_FILES = 64  # descriptors that are not for connections


class _Server(uvicorn.Server):
    """uvicorn's, without its handling of signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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


def serve(
    guarded: Any,
    service: Service,
    sock: socket.socket,
    clean: Callable[[], None],
    grace: float = GRACE_SECONDS,
) -> None:
    """Serves until SIGTERM or SIGINT, then ends in order; a second one ends the process at once.

    On the first, nothing new is taken, queued requests fail, running ones get `grace` seconds
    and then fail. What still computes after that does not keep the process from ending.
    clean: removes what the server has left on the disk.
    """
    server = _Server(config(guarded, service, grace))
    stop_requested = False

    def handle(number: int, frame: Any) -> None:
        nonlocal stop_requested
        if stop_requested:
            leave(128 + number, clean)
        stop_requested = server.should_exit = True
        # Not in the signal handler itself: it may have interrupted a thread that holds a lock.
        threading.Thread(target=service.close, args=(grace, LEAVE_SECONDS), daemon=True).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(server.serve(sockets=[sock]))
        service.close(0.0, LEAVE_SECONDS)
        if service.computes:
            print("tempo: stopped in the middle of an answer", file=sys.stderr)
            leave(0, clean)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(status: int, clean: Callable[[], None]) -> None:
    """Ends the process at once, whatever its threads do."""
    decoder.kill_all()
    clean()
    sys.stderr.flush()
    os._exit(status)


def config(guarded: Any, service: Service, grace: float) -> uvicorn.Config:
    most = service.limits.connections
    with contextlib.suppress(ValueError, OSError):  # each takes a file descriptor, some of them several
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 3 * most + SPARE_FILES
        if soft != resource.RLIM_INFINITY and soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft != resource.RLIM_INFINITY:
            most = max(8, min(most, (soft - SPARE_FILES) // 3))
    return uvicorn.Config(
        guarded,
        http=protocol.limited(most),
        ws="none",
        log_level="critical",  # of what a client does nothing; what goes wrong here is logged here
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=grace + LEAVE_SECONDS,
        h11_max_incomplete_event_size=64 << 10,
        server_header=False,
    )


@contextlib.contextmanager
def running(guarded: Any, service: Service, host: str = "127.0.0.1") -> Iterator[str]:
    """The server in a thread, for tests and notebooks; yields its address."""
    sock = listen(host, 0)
    server = uvicorn.Server(config(guarded, service, 1.0))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])), daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{sock.getsockname()[1]}"
    finally:
        service.drain()
        server.should_exit = True
        thread.join()
        service.close()
