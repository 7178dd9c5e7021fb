"""An upload as multipart/form-data, written to disk as it arrives."""

import logging

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from tempo_jax.serve.bodies import PIECE_BYTES
from tempo_jax.serve.errors import ApiError
from tempo_jax.serve.sessions import Owner
from tempo_jax.serve.uploads import Upload, Uploads, UploadWriter

logging.getLogger("python_multipart").setLevel(
    logging.CRITICAL
)  # invalid requests are reported to the client

FIELD = "file"
NO_FILE = 'The upload has no "file": send one as multipart/form-data.'
EMPTY_FILE = "The uploaded file is empty: send a complete one."
BAD_FORM = "The upload is no well-formed multipart/form-data: send one file."


async def receive(request: Request, uploads: Uploads, owner: Owner) -> Upload:
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
