"""HTTP connections with deadlines, a bound on their number, and errors in the API's format.

uvicorn bounds neither the time until a request has come nor how slowly its body may: a few hundred idle
connections would take all file descriptors. Those that wait longest without a request go first.
"""

import json
import time

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from tempo_jax.serve.errors import ApiError

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
