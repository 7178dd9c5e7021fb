"""What every request passes first, as plain ASGI: host, token, size of the body; and counting.

Not Starlette's BaseHTTPMiddleware: that hides from a stream that its client has gone.
"""

import asyncio
import contextlib
import hmac
import json
import re
from collections.abc import Callable, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode

from tempo_jax.serve.errors import ApiError

OPEN_PATHS = ("/health",)  # for load balancers
DISCARD_SECONDS = 10.0
COOKIE = "tempo_token"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """The application, guarded.

    token: None lets everyone in. It comes as a bearer token or, for the page, once as ?token=… and
    from then on as a cookie. hosts: names the server answers to, None for all; a page of another
    site cannot reach a loopback server by having its own name resolve to it. body_bytes: most of a
    request. count: called with path and status of every response.
    """

    def __init__(
        self,
        app: Any,
        token: str | None,
        hosts: Sequence[str] | None,
        body_bytes: int,
        count: Callable[[str, int], None],
    ):
        self._app, self._token, self._hosts = app, token, hosts
        self._body_bytes, self._count = body_bytes, count

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "websocket":  # nothing of ours is one
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def counted(message: dict) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._count(scope["path"], message["status"])
            await send(message)

        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        try:
            self._check_host(headers)
            if await self._signed_in(scope, headers, counted):
                return
            await self._app(scope, self._bounded(headers, receive), counted)
        except ApiError as error:
            if started:
                raise
            if error.status == 413:
                await self._discard(receive)
            await respond(counted, error)

    async def _discard(self, receive: Callable) -> None:
        """Reads as much again as is allowed: who is still sending would not see the response."""
        size, more = 0, True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while more and size <= self._body_bytes:
                    message = await receive()
                    size += len(message.get("body", b""))
                    more = message.get("more_body", False)

    def _check_host(self, headers: dict) -> None:
        host = re.sub(r":\d*$", "", headers.get("host", ""))
        if self._hosts is not None and host.lower() not in self._hosts:
            raise ApiError(
                421, f"This server does not answer to the name {host[:80]!r}: use its address.", "wrong_host"
            )

    async def _signed_in(self, scope: dict, headers: dict, send: Callable) -> bool:
        """Whether the request has been answered here, by a cookie for the page."""
        if self._token is None or scope["path"] in OPEN_PATHS:
            return False
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._matches(given.strip()):
            return False
        if self._matches(_cookie(headers.get("cookie", ""))):
            return False
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["method"] == "GET" and self._matches(query.pop("token", [""])[0]):
            rest = urlencode(query, doseq=True)
            cookie = f"{COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/"
            to = scope["path"] + (f"?{rest}" if rest else "")
            await _send(send, 303, {"location": to, "set-cookie": cookie, "cache-control": "no-store"}, b"")
            return True
        raise ApiError(
            401,
            "The bearer token is missing or wrong: send the one this server was started with.",
            "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _matches(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _bounded(self, headers: dict, receive: Callable) -> Callable:
        """`receive` that refuses bodies beyond the limit, announced or not."""
        error = ApiError(
            413,
            f"The request is larger than the {self._body_bytes >> 20} MiB allowed: send a smaller file.",
            "too_large",
        )
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._body_bytes:
            raise error
        seen = 0

        async def bounded() -> dict:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._body_bytes:
                raise error
            return message

        return bounded


def _cookie(text: str) -> str:
    try:
        morsel = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


async def respond(send: Callable, error: ApiError) -> None:
    body = json.dumps(error.body()).encode()
    await _send(send, error.status, {"content-type": "application/json", **error.headers}, body)


async def _send(send: Callable, status: int, headers: dict[str, str], body: bytes) -> None:
    raw = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
