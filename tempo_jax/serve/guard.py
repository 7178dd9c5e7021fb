"""Security middleware (plain ASGI): checks host, origin, token and body size, and counts requests.

Not Starlette's BaseHTTPMiddleware: that hides from a stream that its client has gone.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode

from tempo_jax.serve.errors import ApiError
from tempo_jax.serve.limits import MIB
from tempo_jax.serve.sessions import Identity, Sessions, new_session

DISCARD_SECONDS = 5.0
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
DEFAULT_PORTS = {"http": "80", "https": "443"}
OPEN_PATHS = ("/health", "/api/session")  # for load balancers; to sign in
SESSION_PATHS = ("/api/", "/v1/files")  # what a session is given for
OWN_HEAD = ("/media", "/events")  # large files answer HEAD by themselves, streams without an end do not
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# On every response, unless it brings its own.
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cache-control": b"no-store",
}


class SecurityMiddleware:
    """The application, guarded.

    hosts: names the server answers to, None for all; a page of another site cannot reach a loopback server
    by having its own name resolve to it. origins: other sites whose pages may call the API. open_paths: what
    needs no token besides OPEN_PATHS. body_bytes: path and method -> most bytes of a body. most: requests at
    a time. count: called with scope and status of every response.
    """

    def __init__(
        self,
        app: Any,
        sessions: Sessions,
        *,
        hosts: Sequence[str] | None,
        origins: Sequence[str],
        open_paths: Callable[[str], bool],
        body_bytes: Callable[[str, str], int],
        most: int,
        count: Callable[[dict, int], None],
    ):
        self._app, self._sessions = app, sessions
        self._hosts, self._origins, self._open = hosts, origins, open_paths
        self._body_bytes, self._most, self._count = body_bytes, most, count
        self._active = 0

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "websocket":  # nothing of ours is one
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            self._active += 1
            if scope["method"] == "HEAD" and not scope["path"].endswith(OWN_HEAD):
                scope = {**scope, "method": "GET"}  # uvicorn, which has the other one, leaves out the body
            try:
                await self._request(scope, receive, send)
            finally:
                self._active -= 1

    async def _request(self, scope: dict, receive: Callable, send: Callable) -> None:
        started = False
        cookies: list[str] = []  # to be set

        async def finished(message: dict) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._count(scope, message["status"])
                message = {**message, "headers": _completed(message.get("headers", ()), cookies)}
            await send(message)

        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        try:
            if self._active > self._most:
                raise ApiError(
                    503,
                    "The server has as many requests as it takes: try again in a second.",
                    "too_busy",
                    headers={"Retry-After": "1"},
                )
            self._check_host(headers)
            self._check_site(scope, headers)
            if await self._signed_in(scope, headers, cookies, finished):
                return
            await self._app(scope, self._bounded(scope, headers, receive), finished)
        except ApiError as error:
            if started:
                raise
            if error.status == 413:
                await self._discard(scope, receive)
            await respond(finished, error)

    async def _discard(self, scope: dict, receive: Callable) -> None:
        """Reads as much again as is allowed: who is still sending would not see the response."""
        size, more_body, most = 0, True, self._body_bytes(scope["path"], scope["method"])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while more_body and size <= most:
                    message = await receive()
                    size += len(message.get("body", b""))
                    more_body = message.get("more_body", False)

    def _check_host(self, headers: dict) -> None:
        host = re.sub(r":\d*$", "", headers.get("host", ""))
        if self._hosts is not None and host.lower() not in self._hosts:
            raise ApiError(
                421, f"This server does not answer to the name {host[:80]!r}: use its address.", "wrong_host"
            )

    def _check_site(self, scope: dict, headers: dict) -> None:
        """Pages of other sites may link here, and nothing else."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin in self._origins:
            return
        safe = scope["method"] in SAFE_METHODS
        link = (
            safe
            and headers.get("sec-fetch-mode") == "navigate"
            and headers.get("sec-fetch-dest") == "document"
        )
        foreign = site not in ("same-origin", "none") and not link
        if origin is not None and not safe:
            foreign = foreign or not _same(origin, headers.get("host", ""))
        if foreign:
            raise ApiError(
                403,
                "A page of another site has sent this request: only this server's own page may, and those of "
                "its --allow-origin.",
                "cross_site",
            )

    async def _signed_in(self, scope: dict, headers: dict, cookies: list[str], send: Callable) -> bool:
        """Whether the request has been answered here, by a cookie for the page; else says who asks."""
        sessions, path = self._sessions, scope["path"]
        session = sessions.read(headers.get("cookie", ""))
        fresh = session is None
        address = (scope.get("client") or ("", 0))[0]
        who = Identity(session or new_session(), fresh, address)
        scope.setdefault("state", {})["who"] = who
        known = not sessions.token_required or not fresh or sessions.bearer(headers.get("authorization", ""))
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["method"] == "GET" and sessions.matches(query.pop("token", [""])[0]):
            rest = urlencode(query, doseq=True)
            cookies.append(sessions.cookie(who.session, scope))
            await _send(send, 303, {"location": path + (f"?{rest}" if rest else "")}, b"")
            return True
        if known and fresh and path.startswith(SESSION_PATHS):
            cookies.append(sessions.cookie(who.session, scope))
        scope["state"]["signed_in"] = known
        if known or path in OPEN_PATHS or self._open(path):
            return False
        raise ApiError(
            401,
            "The bearer token is missing or wrong: send the one this server was started with.",
            "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _bounded(self, scope: dict, headers: dict, receive: Callable) -> Callable:
        """`receive` that refuses bodies beyond the limit, announced or not."""
        most = self._body_bytes(scope["path"], scope["method"])
        error = too_large(most)
        length = headers.get("content-length", "0")
        if length.isdigit() and (len(length) > 18 or int(length) > most):
            raise error
        seen = 0

        async def bounded() -> dict:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise error
            return message

        return bounded


def too_large(most: int) -> ApiError:
    """The error for a body of more than `most` bytes."""
    size = f"{most / MIB:.3g} MiB"
    return ApiError(413, f"The request is larger than the {size} allowed here: send less.", "too_large")


def _same(origin: str, host: str) -> bool:
    """Whether a page of this origin is of this host."""
    scheme, _, place = origin.partition("://")
    default = DEFAULT_PORTS.get(scheme)
    if default is None:  # "null" too
        return False

    def with_port(name: str) -> str:
        return (name if re.search(r":\d+$", name) else f"{name}:{default}").lower()

    return with_port(place) == with_port(host)


def _completed(headers: Any, cookies: list[str]) -> list[tuple[bytes, bytes]]:
    headers = list(headers)
    names = {name.lower() for name, _ in headers}
    headers += [(name, value) for name, value in HEADERS.items() if name not in names]
    if b"set-cookie" in names:  # the application has decided
        return headers
    return headers + [(b"set-cookie", cookie.encode()) for cookie in cookies]


async def respond(send: Callable, error: ApiError) -> None:
    body = json.dumps(error.body()).encode()
    await _send(send, error.status, {"content-type": "application/json", **error.headers}, body)


async def _send(send: Callable, status: int, headers: dict[str, str], body: bytes) -> None:
    raw = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
