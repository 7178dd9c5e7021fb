"""Bodies of requests, read in pieces and bounded: JSON, data: URIs within it, and multipart/form-data.

Of JSON, each body and all together are bounded, and parsed off the event loop. Those that carry videos as
data: URIs may be much larger: the URIs, in base64, go to the disk as they come, and what is left is bounded
like any other body. Understood are all common forms of base64: with line breaks (as JSON or percent escapes),
URL-safe, unpadded; and images joined by commas, which are the frames of a video, as vLLM's clients send them.
An upload's file goes to the disk as it arrives.
"""

import asyncio
import binascii
import contextlib
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from tempo_jax.serve.errors import ApiError
from tempo_jax.serve.limits import MIB, Limits
from tempo_jax.serve.sessions import Owner
from tempo_jax.serve.uploads import Upload, Uploads, UploadWriter

NOT_BASE64 = "The data: URI is no intact base64: encode the file again, as data:video/mp4;base64,AAAA."
MOST_FILES = 4096  # of one request: frames of a list
HEAD_BYTES = 160  # longest beginning of a URI
# What data: URIs call a file -> the suffix it is kept with; only its contents decide what it is.
SUFFIX_OF = {"video/mp4": ".mp4", "image/gif": ".gif", "image/png": ".png", "image/jpeg": ".jpg"}
FRAMES = ("video/jpeg", "video/jpg", "video/png", "video/webp")  # images, joined by commas
# A JSON string that begins so, its slashes escaped or not.
_BEGINS = re.compile(
    rb'"\s{0,8}data:((?:[^",\\;]|\\/){0,60})((?:;[^",\\;]{0,40}){0,2});base64,', re.IGNORECASE
)
_URI = re.compile(r"\s*data:([^,;]{0,60})((?:;[^,;]{0,40}){0,2});base64,", re.IGNORECASE)
_ESCAPES = re.compile(rb"\\(?:[nrt/]|u00(?:0[aAdD9]|2[bBfF]|3[dD]|20))|%(?:2[bBfF]|3[dD]|0[aAdD]|20)")
_BROKEN = re.compile(rb"(?:\\(?:u[0-9a-fA-F]{0,3})?|%[0-9a-fA-F]?)\Z")  # an incomplete escape
_OTHER = re.compile(rb"[^A-Za-z0-9+/]")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_PLAIN = {b"/": b"/", b"2b": b"+", b"2f": b"/", b"3d": b"="}


def _plain(match: re.Match) -> bytes:
    return _PLAIN.get(match[0].lower().lstrip(b"\\%").removeprefix(b"u00"), b"")


class Base64:
    """A decoder of base64 that comes in pieces."""

    def __init__(self, write: Callable[[bytes], None]):
        self._write, self._rest, self._escape, self._ended = write, b"", b"", False
        self.size = 0

    def feed(self, text: bytes) -> None:
        """ApiError for what is no base64."""
        text = self._escape + text
        cut = _BROKEN.search(text)
        self._escape = cut[0] if cut else b""
        text = text[: len(text) - len(self._escape)]
        if b"\\" in text or b"%" in text:
            text = _ESCAPES.sub(_plain, text)
        text = text.translate(_URL_SAFE, b" \n\r\t")
        text, padding, after = text.partition(b"=")
        if (self._ended and text) or after.strip(b"=") or _OTHER.search(text):
            raise bad()
        self._ended = self._ended or bool(padding)
        text = self._rest + text
        aligned_length = len(text) - len(text) % 4
        self._rest = text[aligned_length:]
        self._put(text[:aligned_length])

    def end(self) -> None:
        """ApiError for an end that cannot be."""
        if self._escape or len(self._rest) == 1:
            raise bad()
        self._put(self._rest + b"=" * (-len(self._rest) % 4))
        if not self.size:
            raise bad()

    def _put(self, text: bytes) -> None:
        if text:
            data = binascii.a2b_base64(text)
            self.size += len(data)
            self._write(data)


class DataUris:
    """The data: URIs of one request. A URI is replaced by an address that only this object knows (`take`).

    `close` it when the request is over: its files go.
    """

    def __init__(self, uploads: Uploads, most: int):
        """most: bytes that all files of the request may have together."""
        self._uploads, self._most = uploads, most
        self._prefix = f"tempo-inline:{secrets.token_hex(8)}:"
        self._files: list[Upload] = []
        self._joined = False  # images are being read
        self._first = 0  # the first file of the URI that is being read
        self._address = ""  # what stands for it
        self._addresses: dict[str, Upload] = {}
        self._buffer = b""
        self._writing = None  # the file whose URI is being read
        self._decoder: Base64 | None = None
        self._before = b""  # the last bytes of text that have been passed on

    def feed(self, data: bytes) -> bytes:
        """The JSON text without the URIs, as far as it is certain."""
        self._buffer += data
        text = bytearray()
        while True:
            if self._decoder is not None:
                end = self._buffer.find(b'"')
                self._read(self._buffer if end < 0 else self._buffer[:end])
                if end < 0:
                    self._buffer = b""
                    return bytes(text)
                self._finish()
                text += self._address.encode() + b'"'
                self._buffer = self._buffer[end + 1 :]
            match = self._begin()
            if match is None:
                keep = min(len(self._buffer), HEAD_BYTES)
                text += self._pass_on(len(self._buffer) - keep)
                return bytes(text)
            text += self._pass_on(match.start()) + b'"'
            self._begin_uri(match[1].replace(b"\\", b"").decode("latin-1").strip().lower())
            self._buffer = self._buffer[match.end() - match.start() :]

    def end(self) -> bytes:
        """The rest of the text; ApiError where it ends within a URI."""
        if self._decoder is not None:
            raise ApiError(400, "The request is not JSON (it ends within a data: URI).", "invalid_json")
        return self._pass_on(len(self._buffer))

    def close(self) -> None:
        """Removes the files, complete or not."""
        self._abandon()
        for upload in self._files:
            self._uploads.release(upload)
        self._files = []

    def _abandon(self) -> None:
        if self._writing is not None:
            self._writing.__exit__()
            self._writing = self._decoder = None

    def frames(self, pictures: Sequence[Path]) -> Upload:
        """A folder of images as a video, for as long as the request."""
        self._files.append(self._uploads.frames(pictures))
        return self._files[-1]

    def take(self, address: str) -> Upload | None:
        """The file that an address of this request stands for; of a URI that was not taken out, too."""
        if address in self._addresses:
            return self._addresses[address]
        head = _URI.match(address)
        if head is None:
            return None
        self._begin_uri(head[1].strip().lower())
        try:
            self._read(address[head.end() :].encode("utf-8", "replace"))
            self._finish()
            return self._addresses[self._address]
        finally:
            self._abandon()

    def inside(self, text: str) -> bool:
        """Whether a URI stood in this text."""
        return self._prefix in text

    def _begin(self) -> re.Match | None:
        """The next string that is a URI: its quote is not escaped, as one within a text is."""
        for match in _BEGINS.finditer(self._buffer):
            before = self._before + self._buffer[max(0, match.start() - 64) : match.start()]
            if not (len(before) - len(before.rstrip(b"\\"))) % 2:
                return match
        return None

    def _pass_on(self, size: int) -> bytes:
        text, self._buffer = self._buffer[:size], self._buffer[size:]
        self._before = (self._before + text)[-64:]
        return text

    def _begin_uri(self, kind: str) -> None:
        self._joined, self._first = kind in FRAMES, len(self._files)
        self._address = f"{self._prefix}{len(self._addresses)}"
        self._start(kind)

    def _read(self, text: bytes) -> None:
        """More of a URI's base64."""
        for number, picture in enumerate(text.split(b",") if self._joined else [text]):
            if number:
                self._keep()
                self._start(FRAMES[0])
            self._decoder.feed(picture)

    def _start(self, kind: str) -> None:
        if len(self._files) >= MOST_FILES:
            raise ApiError(
                400, f"There are more than {MOST_FILES} data: URIs: send fewer frames.", "too_many"
            )
        self._writing = self._uploads.new("the video" + SUFFIX_OF.get(kind, ""), most=self._most)
        self._decoder = Base64(self._write)

    def _write(self, data: bytes) -> None:
        self._writing.write(data)

    def _finish(self) -> None:
        """The end of a URI."""
        self._keep()
        if self._joined:
            self.frames([file.path for file in self._files[self._first :]])
        self._addresses[self._address] = self._files[-1]

    def _keep(self) -> None:
        """The end of a file."""
        self._decoder.end()
        with self._writing as writing:
            self._most = max(1, self._most - writing.size)
            self._files.append(writing.done_within_a_request())
        self._writing = self._decoder = None


def bad() -> ApiError:
    """The error for invalid base64."""
    return ApiError(400, NOT_BASE64, "invalid_data_uri", "url")


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


logging.getLogger("python_multipart").setLevel(
    logging.CRITICAL
)  # invalid requests are reported to the client

FIELD = "file"
NO_FILE = 'The upload has no "file": send one as multipart/form-data.'
EMPTY_FILE = "The uploaded file is empty: send a complete one."
BAD_FORM = "The upload is no well-formed multipart/form-data: send one file."


async def receive_upload(request: Request, uploads: Uploads, owner: Owner) -> Upload:
    """The file of a form, kept; ApiError 400, 413 or 507, and whatever happens nothing is left of it then."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise ApiError(400, BAD_FORM, "bad_form")
    announced = request.headers.get("content-length", "")
    if announced.isdigit():
        uploads.check_room(int(announced))
    form = _Form(uploads, owner)
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks())
        piece = bytearray()
        async for part in request.stream():
            piece += part
            if len(piece) >= PIECE_BYTES:
                await run_in_threadpool(parser.write, bytes(piece))
                piece.clear()
        await run_in_threadpool(parser.write, bytes(piece))
        parser.finalize()
        if await request.is_disconnected():  # canceled when all of it was sent: no client learns its id
            raise ClientDisconnect
        return form.done()
    except FormParserError as error:
        raise ApiError(400, BAD_FORM, "bad_form") from error
    finally:
        form.close()


class _Form:
    """Callbacks of the form parser; only the file is kept."""

    def __init__(self, uploads: Uploads, owner: Owner):
        self._uploads, self._owner = uploads, owner
        self._name, self._value = b"", b""
        self._disposition = b""
        self._writing: UploadWriter | None = None
        self._open = self._ended = False

    def callbacks(self) -> dict:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._all,
        }

    def _begin(self) -> None:
        self._disposition, self._open = b"", False

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") != FIELD.encode() or b"filename" not in options:
            return
        if self._writing is not None:
            raise ApiError(400, BAD_FORM, "bad_form")
        name = options[b"filename"].decode("utf-8", "replace")
        self._writing = self._uploads.new(name, self._owner)
        self._open = True

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._open:
            self._writing.write(data[start:end])

    def _end(self) -> None:
        self._open = False

    def _all(self) -> None:
        self._ended = True

    def done(self) -> Upload:
        if not self._ended:
            raise ApiError(400, BAD_FORM, "bad_form")
        if self._writing is None:
            raise ApiError(400, NO_FILE, "no_file", FIELD)
        if not self._writing.size:
            raise ApiError(400, EMPTY_FILE, "empty_file", FIELD)
        return self._writing.done()

    def close(self) -> None:
        """Removes what was not kept."""
        if self._writing is not None:
            self._writing.__exit__()
