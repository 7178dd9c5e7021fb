"""Running the server: sockets, a bounded number of connections with deadlines, signals, a clean end."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from tempo_jax.errors import TempoError
from tempo_jax.serve import decoder
from tempo_jax.serve.errors import ApiError
from tempo_jax.serve.service import Service

CHECK_SECONDS = 1.0
HEADER_SECONDS = 10.0  # from the connection, or the last response, to a whole header
BODY_SECONDS = 30.0  # of a body, beyond what its bytes may take
BODY_RATE = 2048  # bytes a second that a body must have on average then
WRITE_SECONDS = 300.0  # without the client reading anything: a paused player comes back by itself
NOT_HTTP = ApiError(400, "This is no HTTP request that can be understood: send HTTP/1.1.", "invalid_http")
TOO_SLOW = ApiError(408, "The request has not come in time: send it faster.", "timeout")
TOO_MANY = ApiError(503, "The server has all the connections it takes: try again soon.", "too_busy")


class Protocol(H11Protocol):
    """One connection. most: of all at a time, set by `limited`."""

    most = 512

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._idle_since: float | None = time.monotonic()
        self._body_began, self._body_size, self._stuck_since = 0.0, 0, None
        self._timer = self.loop.call_later(CHECK_SECONDS, self._check)
        if len(self.connections) > self.most:
            idle = [
                other for other in self.connections if other is not self and other._idle_since is not None
            ]
            if idle:
                min(idle, key=lambda other: other._idle_since).transport.abort()
            else:
                self._refuse(TOO_MANY)

    def connection_lost(self, exc) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._body_size += len(data)
        super().data_received(data)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._idle_since = None
            self._body_began, self._body_size = time.monotonic(), 0

    def on_response_complete(self) -> None:
        self._idle_since = time.monotonic()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(NOT_HTTP)

    def _check(self) -> None:
        """Closes what has been too slow."""
        self._timer = self.loop.call_later(CHECK_SECONDS, self._check)
        now = time.monotonic()
        if self._idle_since is not None:
            if now - self._idle_since > HEADER_SECONDS:
                self._refuse(TOO_SLOW)
            return
        stuck = self.flow.write_paused
        self._stuck_since = (self._stuck_since or now) if stuck else None
        if self._stuck_since is not None and now - self._stuck_since > WRITE_SECONDS:
            self.transport.abort()
        receiving = self.cycle is not None and self.cycle.more_body and not self.flow.read_paused
        if receiving and now - self._body_began > BODY_SECONDS + self._body_size / BODY_RATE:
            self.transport.abort()

    def _refuse(self, error: ApiError) -> None:
        """Answers where nothing has been answered yet, and closes."""
        if self.transport.is_closing():
            return
        silent = error is TOO_SLOW and not self.conn.trailing_data[0]  # nothing has been asked
        if not silent and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            try:
                self._send(error)
            except h11.LocalProtocolError:
                self.transport.abort()
        self.transport.close()

    def _send(self, error: ApiError) -> None:
        body = json.dumps(error.body()).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        headers.append((b"content-length", str(len(body)).encode()))
        start = h11.Response(status_code=error.status, headers=headers, reason=STATUS_PHRASES[error.status])
        for event in (start, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))


def limited(connections: int) -> type[Protocol]:
    """The protocol for a server that takes so many connections."""
    return type("Protocol", (Protocol,), {"most": connections})


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
        http=limited(most),
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
