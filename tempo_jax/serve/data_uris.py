"""data: URIs in base64, taken out of JSON text as it comes and written to files.

Understood are all common forms of base64: with line breaks (as JSON or percent escapes), URL-safe, unpadded;
and images joined by commas, which are the frames of a video, as vLLM's clients send them.
"""

import binascii
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from tempo_jax.serve.errors import ApiError
from tempo_jax.serve.uploads import Upload, Uploads

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
