"""JSON bodies: bounded one by one and together, parsed off the event loop.

Those that carry videos as data: URIs may be much larger: the URIs go to the disk as they come (`data_uris`),
and what is left is bounded like any other body.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from tempo_jax.serve.data_uris import DataUris
from tempo_jax.serve.errors import ApiError
from tempo_jax.serve.limits import MIB, Limits

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # half of a character, or one of two halves
PIECE_BYTES = 1 << 18  # data: URIs are decoded so much at a time


class Bodies:
    """The bodies that a server holds at a time; used on its event loop only."""

    def __init__(self, limits: Limits):
        self._most, self._all = limits.json_bytes, limits.bodies_bytes
        self._held = 0
        self._parsing = asyncio.Lock()  # what JSON takes in memory is many times its length

    async def json(self, request: Request, uris: DataUris | None = None) -> Any:
        """The parsed body; ApiError 400, 413, 415 or 503. uris: takes data: URIs out of it."""
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":  # which a page of another site cannot send without asking first
            raise ApiError(415, "The request must have the content type application/json.", "content_type")
        with self._room() as take:
            text = bytearray()
            async for piece in _pieces(request):
                text += piece if uris is None else await run_in_threadpool(uris.feed, piece)
                take(len(text))
            if uris is not None:
                text += uris.end()
                take(len(text))
            async with self._parsing:
                return await run_in_threadpool(_parse, text)

    @contextlib.contextmanager
    def _room(self) -> Iterator[Any]:
        """Called with the bytes held of one body, counts them among those of all."""
        mine = 0

        def take(size: int) -> None:
            nonlocal mine
            if size > self._most:
                raise ApiError(
                    413,
                    f"The request is larger than {self._most / MIB:.3g} MiB (data: URIs not counted): "
                    "upload the video at /v1/files first.",
                    "too_large",
                )
            self._held, mine = self._held + size - mine, size
            if self._held > self._all:
                raise ApiError(
                    503,
                    "The server is reading as many requests as it can: try again in a second.",
                    "too_busy",
                    headers={"Retry-After": "1"},
                )

        try:
            yield take
        finally:
            self._held -= mine


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces of some PIECE_BYTES."""
    piece = bytearray()
    async for part in request.stream():
        piece += part
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _parse(text: bytearray) -> Any:
    try:
        decoded = text.decode("utf-8-sig")
        value = json.loads(decoded)
        return _clean(value) if _SURROGATE.search(decoded) else value
    except UnicodeDecodeError as error:
        raise ApiError(400, f"The request is not JSON in UTF-8 ({error.reason}).", "invalid_json") from error
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The request is not JSON ({error}).", "invalid_json") from error


def _clean(value: Any) -> Any:
    """Replaces lone surrogates, which JSON can escape but UTF-8 cannot encode."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(name): _clean(item) for name, item in value.items()}
    return value


def checked(body: Any, fields: dict[str, type | tuple[type, ...]]) -> dict:
    """A JSON object of known fields, null counting as left out; ApiError 400 that names what is wrong."""
    if not isinstance(body, dict):
        raise ApiError(400, "The request must be a JSON object.", "invalid_json")
    for name, value in body.items():
        if name not in fields:
            message = f"{name[:80]!r} is unknown here: leave it out (known: {', '.join(fields)})."
            raise ApiError(400, message, "unknown_parameter", name[:80])
        if value is not None and not isinstance(value, fields[name]):
            raise ApiError(400, f"{name} has the wrong type: see /docs.", "invalid_value", name)
    return {name: value for name, value in body.items() if value is not None}
