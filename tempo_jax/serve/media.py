"""Serves videos and images to browsers: types by content, byte ranges, a policy against scripts."""

import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from tempo_jax.serve.errors import ApiError

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, no-cache",
}
# (offset, first bytes, type); the first that fits. SVG, which can run scripts, is not among them.
SIGNATURES = (
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypavis", "image/avif"),
    (4, b"ftypheic", None),
    (4, b"ftypqt", "video/quicktime"),
    (4, b"ftyp", "video/mp4"),
    *((4, box, "video/quicktime") for box in (b"moov", b"mdat", b"wide", b"free", b"skip")),
    (0, b"OggS", "video/ogg"),
    (8, b"AVI ", "video/x-msvideo"),
    (8, b"WEBP", "image/webp"),
    (0, b"FLV\x01", "video/x-flv"),
    (0, b"\x00\x00\x01\xba", "video/mpeg"),
    (0, b"\x00\x00\x01\xb3", "video/mpeg"),
    (188, b"\x47", "video/mp2t"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n", "image/png"),
    (0, b"GIF8", "image/gif"),
    (0, b"BM", "image/bmp"),
)
EBML = b"\x1a\x45\xdf\xa3"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def media_type(path: Path) -> str | None:
    """The type by the file's first bytes, whatever its name; None for what no browser is given."""
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError:
        return None
    if head.startswith(EBML):
        return "video/webm" if b"webm" in head else "video/x-matroska"
    for offset, magic, kind in SIGNATURES:
        if head[offset : offset + len(magic)] == magic:
            return kind
    return None


def respond(request: Request, path: Path, name: str) -> Response:
    """The file, or the range of it that is asked for; ApiError 404 and 416."""
    kind = media_type(path)
    if kind is None:
        raise ApiError(
            404, "This file is nothing that a browser can show: ask about it all the same.", "no_media"
        )
    _check_range(request, path.stat().st_size)
    return FileResponse(
        path,
        media_type=kind,
        filename=name.replace("/", "_"),
        content_disposition_type="inline",
        headers=HEADERS,
    )


def _check_range(request: Request, size: int) -> None:
    """Leaves a header that can be answered or, as is allowed, none."""
    header = request.headers.get("range")
    if header is None:
        return
    match = _RANGE.fullmatch(header.replace(" ", ""))
    start, end = match.groups() if match else ("", "")
    backwards = start and end and int(end) < int(start)
    if not (start or end) or backwards:  # several ranges, other units or nothing that makes sense
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
    elif (start and int(start) >= size) or (not start and int(end) == 0) or not size:
        raise ApiError(
            416,
            f"The file has {size} bytes and nothing of the range asked for.",
            "range_not_satisfiable",
            headers={"Content-Range": f"bytes */{size}"},
        )
